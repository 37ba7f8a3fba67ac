"""What was made once for the same inputs is not made again.

A folder in the cache is complete or absent: it is filled elsewhere and renamed into place, under a lock that the
kernel releases when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from image.places import cache_directory


def made(kind: str, inputs: Iterable[str | bytes | Path], make: Callable[[Path], None]) -> Path:
    """Give the folder of these inputs; `make` fills an empty one if there is none yet."""
    cache = cache_directory()
    target = cache / f"{kind}-{digest(inputs)}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{kind}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process makes {kind} already; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        # What a killed build left behind: the lock says that none is running.
        for leftover in cache.glob(f"tmp-{kind}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"tmp-{kind}-", dir=cache))
        try:
            make(draft)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def digest(inputs: Iterable[str | bytes | Path]) -> str:
    """Name the inputs; a path stands for what the file holds."""
    whole = hashlib.sha256()
    for each in inputs:
        part = each.read_bytes() if isinstance(each, Path) else each.encode() if isinstance(each, str) else each
        whole.update(str(len(part)).encode() + b":" + part)
    return whole.hexdigest()[:20]


def say(text: str) -> None:
    """Tell the person who waits."""
    print(f"image: {text}", file=sys.stderr, flush=True)
