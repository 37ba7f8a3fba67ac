"""From the bytes of an AdmissionReview to an answer: rules, what other objects say, the delete guard.

It must never stand in anybody's way because of a defect of its own, a view that is behind, or time: then what is
known is said, and the rest is left to the controller, which judges everything again (docs/adr/0009).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import structlog

from configregistry.admission import across, guard, rules
from configregistry.admission.findings import Findings
from configregistry.admission.request import DELETE, Request, read
from configregistry.errors import FieldError
from configregistry.model.spec import RolloutSpec, Spec, parse_spec
from configregistry.telemetry import tracing

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

WITHIN: Final = 2.0
"""Seconds for what asks the program's loop; the API server waits 5 for all of it."""


class Answer(NamedTuple):
    """What the API server is told. `message`, `code`: only with a refusal."""

    allowed: bool
    warnings: tuple[str, ...] = ()
    message: str = ""
    code: int = 0


ALLOWED: Final = Answer(allowed=True)


class Policies(Protocol):
    """Who knows RolloutPolicies; asked in the program's loop."""

    async def look(self, namespace: str, rollout: RolloutSpec) -> tuple[RolloutSpec | None, tuple[str, ...]]:
        """What they make of a spec.rollout (None: nobody can say), and each sentence that they say against it."""
        ...


class Hop(Protocol):
    """Has something done in the loop of the reflectors."""

    def __call__(self, work: Coroutine[Any, Any, _T], /) -> Awaitable[_T]:
        """Give what it gives."""
        ...


def to_loop(loop: asyncio.AbstractEventLoop) -> Hop:
    """The way from another thread's loop to this one."""

    def hop(work: Coroutine[Any, Any, _T]) -> Awaitable[_T]:
        try:
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
        except RuntimeError:  # that loop has ended, and the program with it
            work.close()
            raise

    return hop


class Reviewer:
    """Answers reviews, in any thread: what reads the reflectors' stores goes to their loop by `hop`."""

    def __init__(
        self,
        view: across.View,
        hop: Hop,
        *,
        consumers: guard.Consumers | None,
        going: guard.Going,
        examiners: Sequence[rules.Examiner] = (),
        policies: Policies | None = None,
        reviewed: Callable[[str, float], None] = lambda _result, _seconds: None,
    ) -> None:
        """`reviewed` is told of each answer: `allowed`, `warned`, `denied` or `failed`, and the seconds it took."""
        self._view = view
        self._hop = hop
        self._consumers = consumers
        self._going = going
        self._examiners = tuple(examiners)
        self._policies = policies
        self._reviewed = reviewed

    async def review(self, raw: bytes) -> Answer:
        """Answer one; raises nothing."""
        began = perf_counter()
        try:
            request = read(raw)
            with _traced(request) as span:
                answer = await self._answer(request)
                span.set(verdict="Allowed" if answer.allowed else "Refused", warnings=len(answer.warnings))
        except Exception:  # noqa: BLE001 - see above: a defect of ours refuses nothing
            _log.exception("a review failed; the object was let through")
            self._reviewed("failed", perf_counter() - began)
            return Answer(
                allowed=True,
                warnings=("the admission webhook failed to judge this: look at status for what became of it",),
            )
        result = "warned" if answer.warnings else "allowed"
        self._reviewed(result if answer.allowed else "denied", perf_counter() - began)
        if not answer.allowed:
            _log.info(
                "refused",
                namespace=request.namespace,
                registry=request.name,
                operation=request.operation,
                user=request.user,
                # Where, and not what: a schema's message quotes the value that does not fit.
                why=[line.partition(": ")[0] for line in answer.message.splitlines()],
            )
        return answer

    async def _answer(self, request: Request) -> Answer:
        if request.unread:
            return ALLOWED
        if request.operation == DELETE:
            return await self._deleted(request)
        assert request.new is not None
        try:
            spec = parse_spec(request.new.spec)
        except FieldError as error:
            return _told(Findings((str(error),)))
        # First, for it may take time; the rules then take this thread's processor.
        others, effective = await self._in_time(self._others(request, spec), ((), None))
        found = rules.judged(spec, self._examiners, effective)
        if spec.pinned_version is not None:
            # The controller follows a pin whatever else the spec says (rollout.intent): it is the way back.
            found = Findings(warnings=(*found.errors, *found.warnings))
        return _told(found.plus(warnings=() if found.errors else others))

    async def _others(self, request: Request, spec: Spec) -> tuple[tuple[str, ...], RolloutSpec | None]:
        """In the program's loop."""
        warned = list(across.warnings(self._view, request, spec))
        if self._policies is None:
            return tuple(warned), None
        effective, against = await self._policies.look(request.namespace, spec.rollout)
        return (*warned, *against), effective

    async def _deleted(self, request: Request) -> Answer:
        verdict, missed = await self._in_time(self._leaving(request), (guard.UNKNOWN, ()))
        warned = Findings(warnings=(*verdict.doubts, *missed)).shown().warnings
        if verdict.refusal:
            return Answer(allowed=False, warnings=warned, message=verdict.refusal, code=HTTPStatus.FORBIDDEN)
        return Answer(allowed=True, warnings=warned)

    async def _leaving(self, request: Request) -> tuple[guard.Verdict, tuple[str, ...]]:
        """In the program's loop."""
        verdict = await guard.judge(request, self._consumers, self._going)
        return verdict, tuple(across.followed(self._view, request))

    async def _in_time(self, work: Coroutine[Any, Any, _T], otherwise: _T) -> _T:
        """Have it done in the program's loop; what takes too long, or fails, says nothing."""
        try:
            async with asyncio.timeout(WITHIN):
                return await self._hop(work)
        except TimeoutError:
            _log.warning("other objects were not looked at in time", seconds=WITHIN)
        except Exception:  # noqa: BLE001 - the rules are still to be told
            _log.exception("other objects could not be looked at")
        return otherwise


def _traced(request: Request) -> tracing.Span:
    """A span of a review that somebody follows: the API server, or else whoever applies the object."""
    parent = "" if tracing.here() or request.new is None else tracing.of(request.new.meta.annotations)
    about = {"namespace": request.namespace, "registry": request.name, "operation": request.operation}
    return tracing.part("review", parent, **about)


def _told(found: Findings) -> Answer:
    shown = found.shown()
    if not shown.errors:
        return Answer(allowed=True, warnings=shown.warnings)
    return Answer(allowed=False, warnings=shown.warnings, message=shown.message(), code=HTTPStatus.UNPROCESSABLE_ENTITY)
