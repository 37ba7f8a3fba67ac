"""Asks PreRollout hooks before a candidate begins. It must never wait, nor take silence for a no before its time.

    state, message = hooks.before(key, meta, spec, status, content_hash, deadline)   # at every reconcile
    told = hooks.told(key, meta, spec, status)                                       # the same

The other hooks are told of an outcome by `telling`; `Hooks` is what both look like from outside.

A veto is kept. It is of a content and of the PreRollout hooks as they were written, and holds until either is
edited: the candidate ends (lastOutcome: Cancelled by System, which only a veto is), and without that memory the
same content would be a candidate again at once. Which hooks said no is known only to the process that asked them;
another one takes the veto in the status for one of the hooks of now.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import structlog

from configregistry import failpoints
from configregistry.clock import Clock
from configregistry.health.outbound import parse_url
from configregistry.health.question import Subject
from configregistry.health.template import render_url
from configregistry.kube.objects import Meta
from configregistry.model.durations import format_duration
from configregistry.model.hook_messages import (
    About,
    HookEvent,
    Said,
    VersionRef,
    identity,
    read_hook,
    refs,
)
from configregistry.model.spec import Hook, Spec, encode
from configregistry.model.status import Canary, Status
from configregistry.reconcile.asking import Ask, Asker, Outbound
from configregistry.reconcile.memory import Key
from configregistry.reconcile.telling import Failures, Tell, Telling, post
from configregistry.rollout.observation import HookState
from configregistry.rollout.table import Phase, phase_of

FIRST_AGAIN: Final = 1.0
"""Seconds before the second try, jittered."""
LAST_AGAIN: Final = 30.0
"""Seconds between tries at most: a candidate waits for it."""

_VETOED_BY: Final = "by a PreRollout hook: "
"""What stands before the hook's own words in the outcome of a veto (rollout/endings)."""
_SAMPLE: Final = Subject("shop", "checkout", 8, "0123456789abcdef", 7)
_log = structlog.get_logger(__name__)


class _Veto(NamedTuple):
    """Which content the hooks, as they were written, do not let out."""

    uid: str
    content: str
    hooks: str


@dataclass(eq=False, slots=True)
class _Asked:
    """The hooks of one candidate: what they were asked (by id), and when to look whether time is over."""

    asks: dict[str, Ask[Said]] = field(default_factory=dict)
    timer: asyncio.Task[None] | None = None
    timer_at: float = 0.0


class Hooks:
    """Only the leader has one; all of it runs in one event loop. `changed` and `tell` must only queue."""

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
        self._telling = Telling(outbound, clock, changed, tell, sleep=sleep, jitter=jitter)
        self._clock = clock
        self._changed = changed
        self._tell = tell
        self._asked: dict[Key, _Asked] = {}
        self._vetoes: dict[Key, _Veto] = {}

    def before(
        self, key: Key, meta: Meta, spec: Spec, status: Status, content_hash: str, deadline: float
    ) -> tuple[HookState, str]:
        """What the PreRollout hooks say of the content that the spec asks for (empty: there is none).

        `deadline`: seconds within which each must have answered, counted from when it was first asked.
        """
        hooks = tuple((index, hook) for index, hook in enumerate(spec.hooks) if hook.when == "PreRollout")
        canary = status.canary
        if not hooks or canary is None or canary.hash != content_hash or phase_of(status) is not Phase.QUEUED:
            self._forget_asked(key)
            if not hooks or (canary is not None and canary.hash == content_hash):
                return HookState.ALLOWED, ""
            return self._kept(key, _Veto(meta.uid, content_hash, _written(hooks)), status)
        asked = self._asked.setdefault(key, _Asked())
        if spec.rollout.paused:
            self._halt(asked)
            return HookState.PENDING, ""
        self._ask(key, meta, asked, hooks, status, canary)
        told = [
            (f"spec.hooks[{index}] ({hook.name})", asked.asks[_delivery(meta, canary, hook)]) for index, hook in hooks
        ]
        state, message, until = self._judged(told, deadline)
        if state is HookState.VETOED:
            self._vetoes[key] = _Veto(meta.uid, content_hash, _written(hooks))
        self._look_again(key, asked, until)
        return state, message

    def told(self, key: Key, meta: Meta, spec: Spec, status: Status) -> bool:
        """Whether all hooks have been told of the outcome that the status marks Pending; starts telling them."""
        return self._telling.told(key, meta, spec, status)

    @staticmethod
    def tells(spec: Spec) -> frozenset[str]:
        """The results of outcomes that some hook is to be told of."""
        return Telling.tells(spec)

    def forget(self, key: Key) -> None:
        """The registry is gone."""
        self._forget_asked(key)
        self._vetoes.pop(key, None)
        self._telling.forget(key)

    async def close(self) -> None:
        """End everything, for good."""
        await asyncio.gather(self._asker.close(), self._telling.close())

    def _kept(self, key: Key, asked: _Veto, status: Status) -> tuple[HookState, str]:
        """Of content that is no candidate: whether it was one, and is not to become one again."""
        outcome = status.last_outcome
        vetoed = outcome is not None and (outcome.result, outcome.trigger) == ("Cancelled", "System")
        if outcome is None or not vetoed or outcome.hash != asked.content:
            return HookState.PENDING, ""
        veto = self._vetoes.get(key)
        if veto is None or (veto.uid, veto.content) != (asked.uid, asked.content):
            veto = self._vetoes[key] = asked
        if veto != asked:
            return HookState.PENDING, ""
        # As the hook said it when it was asked: neither the next look nor a restart may change the conditions.
        _, _, said = outcome.message.partition(_VETOED_BY)
        return HookState.VETOED, said or outcome.message

    def _ask(
        self,
        key: Key,
        meta: Meta,
        asked: _Asked,
        hooks: tuple[tuple[int, Hook], ...],
        status: Status,
        canary: Canary,
    ) -> None:
        """Ask those that have not been asked yet; an edited hook is another question, the others keep theirs."""
        wanted = {_delivery(meta, canary, hook): hook for _, hook in hooks}
        for delivery in asked.asks.keys() - wanted.keys():
            self._asker.stop(asked.asks.pop(delivery))
        stable, previous = refs(status)
        for delivery, hook in wanted.items():
            if delivery in asked.asks:
                continue
            event = HookEvent(
                id=delivery,
                hook=hook.name,
                when="PreRollout",
                at=canary.started_at,
                registry=About(meta.namespace, meta.name, meta.uid),
                version=VersionRef(canary.hash, canary.version),
                stable=stable,
                previous=previous,
            )
            tried = partial(self._tried, key, Failures(meta, hook, self._clock, self._tell))
            name = f"hook {hook.name} of {key[0]}/{key[1]}"
            asked.asks[delivery] = self._asker.ask(partial(post, hook, event), read_hook, tried, name)

    def _tried(self, key: Key, failures: Failures, ask: Ask[Said]) -> bool:
        failpoints.reach("hooks.answered")
        if ask.answer is None:
            failures.note(ask.failure)
        else:
            _log.info(
                "hook answered", namespace=key[0], registry=key[1], hook=failures.hook, allowed=ask.answer.allowed
            )
            self._changed(key)
        return True

    def _judged(self, told: list[tuple[str, Ask[Said]]], deadline: float) -> tuple[HookState, str, float | None]:
        """What the answers so far come to, and when time alone could change that (monotonic)."""
        now = self._clock.monotonic()
        for name, ask in told:
            if ask.answer is not None and not ask.answer.allowed:
                return HookState.VETOED, f"{name}: {ask.answer.message or 'said no, and did not say why'}", None
        silent = [(name, ask) for name, ask in told if ask.answer is None]
        for name, ask in silent:
            if now - ask.since >= deadline:
                last = f"; last: {ask.failure}" if ask.failure else ""
                within = f"within progressDeadline ({format_duration(deadline)})"
                return HookState.VETOED, f"{name}: no answer {within}{last}", None
        if not silent:
            return HookState.ALLOWED, "", None
        waits = f"waits for {', '.join(name for name, _ in silent)}"
        return HookState.PENDING, waits, min(ask.since for _, ask in silent) + deadline

    def _look_again(self, key: Key, asked: _Asked, at: float | None) -> None:
        """Have the registry queued when its hooks' time is over."""
        running = asked.timer is not None and not asked.timer.done()
        if asked.timer is not None and running and asked.timer_at != at:
            asked.timer.cancel()
            running = False
        if at is not None and not running:
            seconds = max(0.0, at - self._clock.monotonic())
            asked.timer_at = at
            asked.timer = self._asker.later(seconds, partial(self._changed, key), f"deadline of {key[0]}/{key[1]}")

    def _halt(self, asked: _Asked) -> None:
        """Nobody is asked while the rollout is paused; who has answered need not answer again."""
        for delivery, ask in tuple(asked.asks.items()):
            if ask.answer is None:
                self._asker.stop(asked.asks.pop(delivery))
        if asked.timer is not None:
            asked.timer.cancel()

    def _forget_asked(self, key: Key) -> None:
        asked = self._asked.pop(key, None)
        if asked is not None:
            self._halt(asked)


def examine(spec: Spec) -> None:
    """Raise `FieldError` for a hook that could never be asked."""
    for index, hook in enumerate(spec.hooks):
        name = f"spec.hooks[{index}].url"
        parse_url(render_url(hook.url, _SAMPLE, name), name)


def _delivery(meta: Meta, canary: Canary, hook: Hook) -> str:
    return identity(meta.uid, canary.version, canary.hash, canary.started_at, encode(hook))


def _written(hooks: tuple[tuple[int, Hook], ...]) -> str:
    return identity(encode(tuple(hook for _, hook in hooks)))
