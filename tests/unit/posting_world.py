"""Not a service and no network: what answers POSTs as a test tells it, in virtual time.

It keeps what the real `health.Outbound` keeps (no answer later than `within`), and records when each came.
What is real is everything of asking, validation, hooks and telling.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers.virtual import VirtualTime

from configregistry.health import Answer, UnansweredError
from configregistry.kube.objects import Meta
from configregistry.model.spec import Spec, parse_spec
from configregistry.model.status import Canary, Outcome, Previous, Stable, Status
from configregistry.rollout.observation import Note

KEY = ("shop", "checkout")
META = Meta("checkout", "shop", "uid-1")
STABLE, NEW, OTHER = "5ab1e00000000000", "0ca0d1da7e000000", "07e4000000000000"
STARTED = "2030-01-01T00:00:00Z"

Told = Answer | float | BaseException
"""An answer, seconds of waiting before what follows, or what goes wrong."""


def says(body: Any = None, status: int = 200) -> Answer:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, raw)


YES, NO = says({"allowed": True}), says({"allowed": False, "message": "no\nand no"})
HANGS = 3600.0


@dataclass
class Asked:
    """One POST."""

    url: str
    at: float
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class World:
    """All that answers, and all that was asked, queued and told."""

    time: VirtualTime = field(default_factory=VirtualTime)
    answers: dict[str, list[Told]] = field(default_factory=dict)
    """By URL: what becomes of the next POSTs; the last goes on for ever."""
    asked: list[Asked] = field(default_factory=list)
    given: list[tuple[Asked, Answer]] = field(default_factory=list)
    """The answers that came."""
    changed: list[tuple[tuple[str, str], float]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def request(
        self,
        method: str,
        url: str,
        *,
        within: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """In place of `health.Outbound.request`."""
        assert method == "POST"
        asked = Asked(url, self.time.now, headers or {}, body or b"")
        self.asked.append(asked)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            waited = 0.0
            while True:
                script = self.answers.get(url, [says()])
                told = script.pop(0) if len(script) > 1 else script[0]
                if isinstance(told, BaseException):
                    raise told
                if isinstance(told, Answer):
                    self.given.append((asked, told))
                    return told
                seconds = min(told, within - waited)
                await self.time.sleep(seconds)
                waited += seconds
                if waited >= within:
                    raise UnansweredError(f"{url}: no whole answer in {within:g} s")
        finally:
            self.at_once -= 1

    def queue(self, key: tuple[str, str]) -> None:
        self.changed.append((key, self.time.now))

    def tell(self, _meta: Meta, notes: tuple[Note, ...]) -> None:
        self.notes.extend(notes)

    def times(self, url: str) -> list[float]:
        return [each.at for each in self.asked if each.url == url]

    def to(self, url: str) -> list[Asked]:
        return [each for each in self.asked if each.url == url]


def ended() -> bool:
    """No task is left but the test's."""
    return len(asyncio.all_tasks()) == 1


def spec(**parts: Any) -> Spec:
    """A spec as the API server gives it."""
    return parse_spec(json.dumps({"data": {"a": 1}, **parts}).encode())


def steady(**more: Any) -> Status:
    return Status(uid="uid-1", stable=Stable(version=7, hash=STABLE), previous=Previous(version=5, hash=OTHER), **more)


def queued(content: str = NEW, *, version: int = 8, started: str = STARTED, begun: bool = False) -> Status:
    """A candidate that waits at weight 0; or has begun."""
    at = STARTED if begun else ""
    return steady(canary=Canary(version=version, hash=content, started_at=started, step_started_at=at))


def ended_as(result: str, trigger: str = "System", *, content: str = NEW, version: int = 8, **more: Any) -> Status:
    """Without a candidate, after one that ended so."""
    more = {"at": STARTED, "message": f"it {result}", **more}
    return steady(last_outcome=Outcome(version=version, hash=content, result=result, trigger=trigger, **more))
