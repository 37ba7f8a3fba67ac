"""A folder as a layer of an image: a tar in order, with fixed owners, modes and times, packed with gzip.

The same files give the same bytes, whoever makes it and wherever.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import Final, NamedTuple

_LEVEL: Final = 9


class Layer(NamedTuple):
    """A packed layer; both digests are SHA-256, `diff_id` of the tar before it was packed."""

    file: Path
    digest: str
    diff_id: str
    size: int
    unpacked: int


def pack(root: Path, file: Path) -> Layer:
    """Write the folder as a layer, and what is known of it beside it."""
    plain = file.with_suffix(".part")
    with tarfile.open(plain, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            _add(archive, path, path.relative_to(root).as_posix())
    # No file name and no time in the head.
    with plain.open("rb") as tar, file.open("wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as compressed:
        shutil.copyfileobj(tar, compressed)
    layer = Layer(file, _hash(file), _hash(plain), file.stat().st_size, plain.stat().st_size)
    plain.unlink()
    file.with_suffix(".json").write_text(json.dumps(layer[1:]))
    return layer


def packed(file: Path) -> Layer:
    """Give a layer that was packed before."""
    return Layer(file, *json.loads(file.with_suffix(".json").read_text()))


def normalise(root: Path) -> None:
    """Give each file of a folder the mode and time that its layer has, for those who copy the folder itself."""
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(_mode(path))
        os.utime(path, (0, 0), follow_symlinks=False)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.mode = _mode(path)
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, path.readlink().as_posix(), 0o777
    elif path.is_dir():
        member.type = tarfile.DIRTYPE
    else:
        member.size = path.stat().st_size
        with path.open("rb") as file:
            archive.addfile(member, file)
        return
    archive.addfile(member)


def _mode(path: Path) -> int:
    """Nobody may write anything, and only programs may be run: what a umask or a package said does not count."""
    if path.is_symlink():
        return 0o777
    if path.is_dir():
        return 0o1777 if path.stat().st_mode & stat.S_ISVTX else 0o755  # /tmp
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
