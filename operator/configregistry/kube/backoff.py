"""How long to wait before the next attempt: exponential, jittered, without end.

Why: a thousand replicas that lost the same API server must not come back in step. Pure, with the
randomness given, so that tests are exact. It must never sleep itself and never give up.
"""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waits of `base`, 2 x `base`, 4 x ... up to `most` seconds, each times 0.5 to 1."""

    def __init__(
        self,
        base: float = 0.1,
        most: float = 8.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._base = base
        self._most = most
        self._jitter = jitter
        self.failures = 0
        """How many attempts in a row have failed."""

    def reset(self) -> None:
        """There was success: the next wait is short again."""
        self.failures = 0

    def next(self, at_least: float | None = None) -> float:
        """Count a failure, and give the seconds to wait; a server's own wish is kept up to 30."""
        wait = min(self._most, self._base * 2.0 ** min(self.failures, 30))
        self.failures += 1
        wait *= 0.5 + 0.5 * self._jitter()
        return max(wait, min(at_least or 0.0, 30.0))
