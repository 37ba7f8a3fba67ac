"""Asks `spec.validators` whether content may become a version, and keeps what they said.

    problem = validation.verdict(key, meta, spec, content, status)   # at every reconcile; never waits

It must never take anything but a readable yes for a yes, ask twice about what is answered, or let one
registry's validator hold up another registry.

Whom it asks about. Content that the status vouches for is not asked about: what is stable, what is the
candidate (both had their yes before they were named), and what is rejected (it goes nowhere before a
`retry`). So a restart asks about what is new only, validators that are down after an upgrade change nothing
about what is served, and an edit of the validators is about the next content. Under a pin, content goes
nowhere either.

An answer is of a content and of the validators as they were written; the latest few are kept, in memory only.
One validator's no is enough; the other is then not asked further.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import msgspec

from configregistry import failpoints
from configregistry.clock import Clock
from configregistry.errors import FieldError
from configregistry.health.outbound import parse_url
from configregistry.health.question import Subject
from configregistry.health.template import NAMES, render_url
from configregistry.kube.objects import Meta
from configregistry.model import conditions
from configregistry.model.content import Content
from configregistry.model.hook_messages import (
    About,
    Said,
    ValidationRequest,
    VersionRef,
    encode_message,
    identity,
    read_validation,
    refs,
)
from configregistry.model.spec import Spec, Validator, encode
from configregistry.model.status import Status
from configregistry.reconcile.asking import Ask, Asker, Outbound, Post
from configregistry.reconcile.memory import Key
from configregistry.rollout.observation import Problem

FIRST_AGAIN: Final = 1.0
"""Seconds before the second try, jittered."""
LAST_AGAIN: Final = 60.0
"""Seconds between tries at most."""
REMEMBERED: Final = 16
"""Answers that are kept of one registry."""

PENDING: Final = Problem(conditions.VALIDATOR_UNAVAILABLE, "spec.validators: asked, no answer yet")
"""The validators are being asked for the first time: the content goes nowhere, as while they are silent."""

_VERSION: Final = re.compile(r"\{\{\s*version\s*\}\}")


class _Question(NamedTuple):
    """What an answer is about. A restart of the registry's life (another UID) is another registry."""

    uid: str
    content: str
    validators: str


@dataclass(eq=False, slots=True)
class _Asked:
    """What is being asked about one registry, and what was answered before."""

    question: _Question | None = None
    asks: tuple[Ask[Said], ...] = ()
    known: OrderedDict[_Question, Problem | None] = field(default_factory=OrderedDict)


class Validation:
    """Only the leader has one; all of it runs in one event loop. `changed` must only queue."""

    def __init__(
        self,
        outbound: Outbound,
        clock: Clock,
        changed: Callable[[Key], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._asker = Asker(outbound, clock, first=FIRST_AGAIN, most=LAST_AGAIN, sleep=sleep, jitter=jitter)
        self._changed = changed
        self._of: dict[Key, _Asked] = {}

    def wants(self, key: Key, meta: Meta, spec: Spec, content_hash: str, status: Status) -> bool:
        """Whether `verdict` is about to send the content, so that it must be there whole."""
        if not _asks_about(spec, content_hash, status):
            return False
        asked, question = self._of.get(key), _question(meta, spec, content_hash)
        return asked is None or (asked.question != question and question not in asked.known)

    def verdict(self, key: Key, meta: Meta, spec: Spec, content: Content, status: Status) -> Problem | None:
        """What stands in the way of content; None: nothing does. `PENDING` until the first try has ended."""
        asked = self._of.get(key)
        if not _asks_about(spec, content.hash, status):
            if asked is not None:
                self._stop(asked)
            return None
        asked = asked or self._of.setdefault(key, _Asked())
        question = _question(meta, spec, content.hash)
        if question in asked.known:
            self._stop(asked)
            asked.known.move_to_end(question)
            return asked.known[question]
        if asked.question != question:
            self._stop(asked)
            stable, _ = refs(status)
            asked.asks = tuple(self._ask(key, meta, each, content, stable) for each in spec.validators)
            asked.question = question
        return self._judged(asked, question, spec)

    def idle(self, key: Key) -> None:
        """There is nothing to ask about now; what was answered is kept."""
        asked = self._of.get(key)
        if asked is not None:
            self._stop(asked)

    def forget(self, key: Key) -> None:
        """The registry is gone."""
        asked = self._of.pop(key, None)
        if asked is not None:
            self._stop(asked)

    async def close(self) -> None:
        """End everything, for good."""
        await self._asker.close()

    def _judged(self, asked: _Asked, question: _Question, spec: Spec) -> Problem | None:
        """What the answers so far come to."""
        answered = list(zip(spec.validators, asked.asks, strict=True))
        for index, (validator, ask) in enumerate(answered):
            if ask.answer is not None and not ask.answer.allowed:
                told = ask.answer.message or "refused, and did not say why"
                return self._keep(asked, question, Problem(conditions.INVALID_SPEC, _told(index, validator, told)))
        for index, (validator, ask) in enumerate(answered):
            if ask.answer is None and ask.failure:
                return Problem(conditions.VALIDATOR_UNAVAILABLE, _told(index, validator, ask.failure))
        if any(ask.answer is None for ask in asked.asks):
            return PENDING
        return self._keep(asked, question, None)

    def _keep(self, asked: _Asked, question: _Question, verdict: Problem | None) -> Problem | None:
        self._stop(asked)
        asked.known[question] = verdict
        while len(asked.known) > REMEMBERED:
            asked.known.popitem(last=False)
        return verdict

    def _stop(self, asked: _Asked) -> None:
        for ask in asked.asks:
            self._asker.stop(ask)
        asked.question, asked.asks = None, ()

    def _ask(
        self, key: Key, meta: Meta, validator: Validator, content: Content, stable: VersionRef | None
    ) -> Ask[Said]:
        assert content.json
        last = ""

        def tried(ask: Ask[Said]) -> bool:
            nonlocal last
            failpoints.reach("validation.answered")
            # The same failure again is no news: each message of a condition is a write of the status.
            if ask.answer is not None or ask.failure != last:
                last = ask.failure
                self._changed(key)
            return True

        make = partial(_post, meta, validator, content, stable)
        return self._asker.ask(make, read_validation, tried, f"validator {validator.name} of {key[0]}/{key[1]}")


def examine(spec: Spec) -> None:
    """Raise `FieldError` for a validator that could never be asked."""
    for index, validator in enumerate(spec.validators):
        field_name = f"spec.validators[{index}].url"
        if _VERSION.search(validator.url):
            names = ", ".join(name for name in NAMES if name != "version")
            expected = f"expected one of {names} in double braces: content has no version before it is validated"
            raise FieldError(field_name, "version", expected)
        parse_url(render_url(validator.url, _SAMPLE, field_name), field_name)


_SAMPLE: Final = Subject("shop", "checkout", 0, "0123456789abcdef", 7)


def _asks_about(spec: Spec, content_hash: str, status: Status) -> bool:
    """Whether content needs a yes: see the head of this module."""
    if not spec.validators or spec.pinned_version is not None:
        return False
    named = {part.hash for part in (status.stable, status.canary) if part is not None}
    return content_hash not in named and content_hash not in status.rejected_hashes


def _question(meta: Meta, spec: Spec, content_hash: str) -> _Question:
    return _Question(meta.uid, content_hash, identity(encode(spec.validators)))


def _post(meta: Meta, validator: Validator, content: Content, stable: VersionRef | None) -> Post:
    delivery = identity(meta.uid, content.hash, encode(validator))
    request = ValidationRequest(
        id=delivery,
        validator=validator.name,
        registry=About(meta.namespace, meta.name, meta.uid),
        version=VersionRef(content.hash),
        data=msgspec.Raw(content.json),
        stable=stable,
    )
    subject = Subject(meta.namespace, meta.name, 0, content.hash, stable.number if stable else None)
    url = render_url(validator.url, subject, "url")
    about = {"namespace": meta.namespace, "registry": meta.name, "hash": content.hash, "validator": validator.name}
    return Post(url, encode_message(request), delivery, float(validator.timeout_seconds), "validator", about)


def _told(index: int, validator: Validator, text: str) -> str:
    return f"spec.validators[{index}] ({validator.name}): {text}"
