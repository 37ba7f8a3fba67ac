"""Tells PostRollout and Rollback hooks how a rollout ended, at least once, and is in nobody's way.

The status says what is still to be told (`lastOutcome.hooks: Pending`), so that a process that comes after
this one tells it too, under the same ids. What they answer does not matter, as long as it is 2xx. It must never
hold up a decision: nothing here is awaited by whoever decides.

An outcome that a newer one replaced in the status is known to this process only; it goes on being told for
`REPLACED` seconds, unless its hook is edited or removed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from configregistry import failpoints
from configregistry.clock import Clock
from configregistry.health.question import Subject
from configregistry.health.template import render_url
from configregistry.kube.objects import Meta
from configregistry.model.hook_messages import (
    About,
    HookEvent,
    OutcomeRef,
    VersionRef,
    When,
    encode_message,
    identity,
    refs,
)
from configregistry.model.spec import Hook, Spec
from configregistry.model.status import Outcome, Status
from configregistry.reconcile.asking import Ask, Asker, Outbound, Post
from configregistry.reconcile.memory import Key
from configregistry.rollout.observation import Note
from configregistry.telemetry.tracing import Value

Tell = Callable[[Meta, tuple[Note, ...]], None]
"""Tells events of a registry."""

FIRST_AGAIN: Final = 1.0
LAST_AGAIN: Final = 300.0
"""Seconds between tries at most."""
REPLACED: Final = 900.0
"""Seconds for which an outcome that a newer one replaced is still told."""
MOST_REPLACED: Final = 32
"""So many hooks of replaced outcomes are told at most, of one registry; the oldest give way."""
EVENT_EVERY: Final = 3600.0
"""Seconds between two events about the same failing hook."""

_TOLD_OF: Final[dict[str, When]] = {"Completed": "PostRollout", "RolledBack": "Rollback", "Aborted": "Rollback"}
"""Result of an outcome -> the hooks that are told of it. Nobody is told of one that was superseded or cancelled."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Telling:
    """One hook that is told of one outcome."""

    outcome: str
    hook: Hook
    ask: Ask[bool]
    until: float | None = None
    """Monotonic time of the last try; None: its outcome is the latest."""


class Failures:
    """Makes events of a hook's failing tries: at the first one, and then rarely."""

    def __init__(self, meta: Meta, hook: Hook, clock: Clock, tell: Tell) -> None:
        self._meta = meta
        self._hook = hook
        self._clock = clock
        self._tell = tell
        self._noted: float | None = None

    @property
    def hook(self) -> str:
        """The name of the hook."""
        return self._hook.name

    def note(self, failure: str) -> None:
        """A try has failed."""
        now = self._clock.monotonic()
        if self._noted is not None and now - self._noted < EVENT_EVERY:
            return
        self._noted = now
        message = f"hook {self._hook.name} ({self._hook.when}): {failure}; it is tried again"
        where = {"namespace": self._meta.namespace, "registry": self._meta.name, "hook": self._hook.name}
        _log.warning("hook failed; tried again", **where, when=self._hook.when, error=failure)
        self._tell(self._meta, (Note("Warning", "HookFailed", message),))


class Telling:
    """All hooks of all registries that are being told."""

    def __init__(
        self,
        outbound: Outbound,
        clock: Clock,
        changed: Callable[[Key], None],
        tell: Tell,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._asker = Asker(outbound, clock, first=FIRST_AGAIN, most=LAST_AGAIN, sleep=sleep, jitter=jitter)
        self._clock = clock
        self._changed = changed
        self._tell = tell
        self._of: dict[Key, dict[str, _Telling]] = {}

    @staticmethod
    def tells(spec: Spec) -> frozenset[str]:
        """The results of outcomes that some hook is to be told of."""
        kinds = {hook.when for hook in spec.hooks}
        return frozenset(result for result, when in _TOLD_OF.items() if when in kinds)

    def told(self, key: Key, meta: Meta, spec: Spec, status: Status) -> bool:
        """Whether all hooks have been told of the outcome that the status marks Pending; starts telling them."""
        outcome = status.last_outcome
        pending = outcome if outcome is not None and outcome.hooks == "Pending" else None
        if pending is None and key not in self._of:
            return False
        wanted = _wanted(meta, spec, pending) if pending is not None else {}
        tellings = self._of.get(key, {})
        self._drop(tellings, spec, _identity(meta, outcome) if outcome is not None else "", wanted)
        if pending is not None:
            for delivery, hook in wanted.items():
                if delivery not in tellings:
                    tellings[delivery] = self._start(key, meta, hook, delivery, pending, status)
        if tellings:
            self._of[key] = tellings
        else:
            self._of.pop(key, None)
        return pending is not None and all(tellings[delivery].ask.answer is not None for delivery in wanted)

    def forget(self, key: Key) -> None:
        """The registry is gone."""
        for telling in self._of.pop(key, {}).values():
            self._asker.stop(telling.ask)

    async def close(self) -> None:
        """End everything, for good."""
        await self._asker.close()

    def _drop(self, tellings: dict[str, _Telling], spec: Spec, latest: str, wanted: dict[str, Hook]) -> None:
        """End what is not to be told any more, and give what was replaced its last time."""
        now = self._clock.monotonic()
        replaced = 0
        for delivery, telling in reversed(tuple(tellings.items())):
            if telling.outcome == latest:
                keep = wanted.get(delivery) == telling.hook
            else:
                telling.until = now + REPLACED if telling.until is None else telling.until
                replaced += 1
                goes_on = telling.ask.answer is None and now < telling.until and telling.hook in spec.hooks
                keep = goes_on and replaced <= MOST_REPLACED
            if not keep:
                self._asker.stop(tellings.pop(delivery).ask)

    def _start(self, key: Key, meta: Meta, hook: Hook, delivery: str, outcome: Outcome, status: Status) -> _Telling:
        stable, previous = refs(status)
        event = HookEvent(
            id=delivery,
            hook=hook.name,
            when=_TOLD_OF[outcome.result],
            at=outcome.at,
            registry=About(meta.namespace, meta.name, meta.uid),
            version=VersionRef(outcome.hash, outcome.version),
            stable=stable,
            previous=previous,
            outcome=OutcomeRef(outcome.result, outcome.trigger, outcome.message, outcome.at),
        )
        failures = Failures(meta, hook, self._clock, self._tell)
        name = f"hook {hook.name} of {key[0]}/{key[1]}"

        def tried(ask: Ask[bool]) -> bool:
            failpoints.reach("telling.answered")
            if ask.answer is not None:
                _log.info("hook told", namespace=key[0], registry=key[1], hook=hook.name, of=outcome.result)
                self._changed(key)
                return False
            failures.note(ask.failure)
            return telling.until is None or self._clock.monotonic() < telling.until

        ask = self._asker.ask(partial(post, hook, event), _any_answer, tried, name)
        telling = _Telling(_identity(meta, outcome), hook, ask)
        return telling


def post(hook: Hook, event: HookEvent) -> Post:
    """An event on its way to a hook. Raises `FieldError` where the URL is none."""
    number = event.version.number or 0
    stable = event.stable.number if event.stable else None
    subject = Subject(event.registry.namespace, event.registry.name, number, event.version.hash, stable)
    about: dict[str, Value] = {
        "namespace": event.registry.namespace,
        "registry": event.registry.name,
        "version": number,
        "hook": hook.name,
        "when": event.when,
    }
    url = render_url(hook.url, subject, "url")
    return Post(url, encode_message(event), event.id, float(hook.timeout_seconds), "hook", about)


def _wanted(meta: Meta, spec: Spec, outcome: Outcome) -> dict[str, Hook]:
    """The hooks that are to be told of an outcome, by the id of the telling."""
    when = _TOLD_OF.get(outcome.result)
    about = _identity(meta, outcome)
    return {identity(about, when, hook.name): hook for hook in spec.hooks if hook.when == when}


def _identity(meta: Meta, outcome: Outcome) -> str:
    return identity(meta.uid, outcome.version, outcome.hash, outcome.result, outcome.at)


def _any_answer(_body: bytes) -> bool:
    return True
