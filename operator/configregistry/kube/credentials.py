"""Files that others replace while we run: a projected service-account token, a CA's certificates.

Why: the kubelet renews a token when 80 % of its time is over, and a pod that kept the first one would be
refused an hour later.

It must never log or show what it read.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
_Stamp = tuple[int, int, int]


class Renewed(Generic[T]):
    """What a file holds, read again when the file was replaced. Raises `OSError`, and what `read` raises."""

    def __init__(self, path: str, read: Callable[[str], T]) -> None:
        self._path = Path(path)
        self._read = read
        self._known: tuple[_Stamp, T] | None = None

    def get(self) -> T:
        """What it holds now."""
        found = self._path.stat()
        # The inode too: a Secret is replaced by renaming, possibly within one tick of the clock.
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, self._read(str(self._path))
        return self._known[1]


def token_file(path: str) -> Renewed[str]:
    """A bearer token."""
    return Renewed(path, lambda name: Path(name).read_text(encoding="ascii").strip())


def ca_file(path: str) -> Renewed[ssl.SSLContext]:
    """What to trust: the certificates of a file, and no others."""
    return Renewed(path, lambda name: ssl.create_default_context(cafile=name))
