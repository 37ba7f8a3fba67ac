"""A lock between processes, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def exclusive(path: Path, *, when_busy: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of this file, waiting for as long as another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if when_busy is not None:
                when_busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
