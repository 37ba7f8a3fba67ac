"""Wait for a condition, for a bounded time.

Nothing in this package sleeps for a fixed time: it asks again until the answer
is there or the time is up, and then says what it was waiting for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from .errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T | None],
    what: str,
    *,
    timeout: float = 30.0,
    interval: float = 0.05,
) -> T:
    """Return the first true answer of the condition; an exception in it ends the wait."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            message = f"waited {timeout:g} s in vain for {what}"
            raise ClusterError(message)
        time.sleep(interval)
