"""Whether a registry may be deleted: not while consumers read it, unless somebody says so.

What is asked is the leader's merged list. It must never hold up a namespace that goes, nor refuse because
nobody knows: a list that is too old, or none, is no reason to refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from configregistry.admission.request import Request
from configregistry.health import Known
from configregistry.model.names import GROUP

ALLOW_DELETE: Final = f"{GROUP}/allow-delete"
"""On a ConfigRegistry: "true" has it deleted whoever reads it."""
OLDEST: Final = 10.0
"""Seconds: an older list refuses nothing."""
FIRST_LIST: Final = 0.5
"""Seconds that are waited for a first list."""
WHOSE: Final = 1.0
"""Seconds for the question whether the whole namespace goes."""
_NAMED: Final = 3

Consumers = Callable[[str, str, str], Awaitable[Known]]
"""The consumers of a registry: namespace, name, UID. Waits for the first list."""
Going = Callable[[str], Awaitable[bool]]
"""Whether a namespace is being deleted; False where nobody can say."""


class Verdict(NamedTuple):
    """`refusal`: why it may not be deleted; empty: it may. `doubts`: what is not known, to be warned of."""

    refusal: str = ""
    doubts: tuple[str, ...] = ()


UNKNOWN: Final = Verdict(doubts=("nobody could say in time whether somebody still reads it",))


async def judge(request: Request, consumers: Consumers | None, going: Going) -> Verdict:
    """Look at who reads the registry that is to be deleted."""
    meta = request.old.meta if request.old is not None else None
    if meta is None or meta.terminating or meta.annotations.get(ALLOW_DELETE) == "true":
        return Verdict()
    if consumers is None:
        return Verdict(doubts=("consumers are not known here: nobody looked whether somebody still reads it",))
    try:
        async with asyncio.timeout(FIRST_LIST):
            known = await consumers(request.namespace, request.name, meta.uid)
    except TimeoutError:
        return Verdict(doubts=("consumers are not known yet: nobody looked whether somebody still reads it",))
    if known.age > OLDEST:
        return Verdict(
            doubts=(f"consumers were last asked for {known.age:.0f} s ago: nobody knows whether somebody reads it",)
        )
    if not known.consumers:
        silent = ", ".join(sorted(known.errors))
        return Verdict(doubts=(f"{silent} did not answer: consumers there are not known",) if silent else ())
    try:
        async with asyncio.timeout(WHOSE):
            if await going(request.namespace):
                return Verdict()
    except TimeoutError:
        pass  # not known is no yes; whoever deletes a namespace asks again
    return Verdict(_refusal([each.id for each in known.consumers]))


def _refusal(names: list[str]) -> str:
    few = ", ".join(repr(name[:63]) for name in sorted(names)[:_NAMED])
    told = few if len(names) <= _NAMED else f"{few} and {len(names) - _NAMED} more"
    consumers = "1 consumer reads" if len(names) == 1 else f"{len(names)} consumers read"
    return f"{consumers} it ({told}): end them first, or annotate it {ALLOW_DELETE}=true"
