"""How many pods of a workload may be unavailable at once, counted as the workload's own controller counts them.

It must never be kinder than Kubernetes is: what it allows here would pass there for healthy.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

_ROLLING: Final = "RollingUpdate"


class RollingUpdate(msgspec.Struct, frozen=True, rename="camel"):
    """Numbers of pods, or percentages of the desired number."""

    max_unavailable: int | str | None = None
    max_surge: int | str | None = None


class Strategy(msgspec.Struct, frozen=True, rename="camel"):
    """`strategy` of a Deployment, `updateStrategy` of the others."""

    type: str = ""
    rolling_update: RollingUpdate | None = None


def max_unavailable(kind: str, strategy: Strategy, desired: int) -> int:
    """In pods. None where pods are replaced all at once (Recreate) or by hand (OnDelete)."""
    if strategy.type != _ROLLING or desired == 0:
        return 0
    given = strategy.rolling_update or RollingUpdate()
    if kind == "Deployment":
        surge = _scaled(given.max_surge, desired, up=True, default=0)
        found = _scaled(given.max_unavailable, desired, up=False, default=0)
        # Nothing could be replaced otherwise: ResolveFenceposts in the Deployment controller.
        return min(desired, found or (1 if surge == 0 else 0))
    if kind == "DaemonSet":
        return min(desired, _scaled(given.max_unavailable, desired, up=True, default=1))
    # getStatefulSetMaxUnavailable: rounded down, but one at least; one where the feature is off.
    return min(desired, max(1, _scaled(given.max_unavailable, desired, up=False, default=1)))


def _scaled(value: int | str | None, of: int, *, up: bool, default: int) -> int:
    """A number as it is, a percentage of `of` rounded."""
    if value is None:
        return default
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * of
    return math.ceil(share / 100) if up else share // 100
