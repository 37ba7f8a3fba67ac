"""Programs of Debian's packages, unpacked into the user's cache: nothing is installed, so any user may do this.

    wrk = find_program("wrk", "/usr/bin/wrk", ["wrk", "libluajit-5.1-2"])
    subprocess.run([wrk.path, ...], env={**os.environ, **wrk.environment})

What PATH has is taken first. What is in the cache is complete or absent: it is renamed into place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.cluster.locks import exclusive

_WITHIN: Final = 300.0


class NoPackageError(Exception):
    """A package could not be had; the message says why."""


class Program(NamedTuple):
    """A program, and what its environment must have so that it finds its libraries."""

    path: Path
    environment: dict[str, str]


def find_program(name: str, inside: str, packages: Sequence[str]) -> Program:
    """Give a program of PATH, or else of these packages; `inside` is its path in the first of them."""
    found = shutil.which(name)
    if found:
        return Program(Path(found), {})
    root = cache_directory("debian") / name
    program = root / inside.lstrip("/")
    if not program.exists():
        with exclusive(root.with_suffix(".lock"), when_busy=lambda: _say(f"another process gets {name}; waiting")):
            if not program.exists():
                _fill(root, packages)
    if not program.exists():
        raise NoPackageError(f"{packages[0]} has no {inside}")
    libraries = ":".join(str(path) for path in sorted((root / "usr" / "lib").glob("*-linux-gnu*")))
    return Program(program, {"LD_LIBRARY_PATH": libraries} if libraries else {})


def cache_directory(name: str) -> Path:
    """Where the user's copies of such things are kept."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the XDG specification.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"  # noqa: PTH117
    return base / "configregistry" / name


def unpack(package: str, into: Path) -> None:
    """Download a package and unpack it there. Raises `NoPackageError`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoPackageError("no apt-get and dpkg-deb here")
    known = subprocess.run(["apt-cache", "show", package], capture_output=True, check=False)
    if known.returncode != 0:
        if os.geteuid() != 0:
            raise NoPackageError(f"apt knows no {package}, and only root may update its lists")
        _say("updating apt's lists")
        _run(["apt-get", "-q", "update"], into)
    with tempfile.TemporaryDirectory(dir=into) as draft:
        _run(["apt-get", "-q", "download", package], Path(draft))
        file = next(iter(Path(draft).glob("*.deb")), None)
        if file is None:
            raise NoPackageError(f"apt-get downloaded no {package}")
        _run(["dpkg-deb", "-x", str(file), str(into)], into)


def _fill(root: Path, packages: Sequence[str]) -> None:
    _say(f"getting {' and '.join(packages)} of Debian (once)")
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=root.parent) as draft:
        unpacked = Path(draft) / "unpacked"
        unpacked.mkdir()
        for package in packages:
            unpack(package, unpacked)
        shutil.rmtree(root, ignore_errors=True)
        unpacked.replace(root)


def _run(command: Sequence[str], directory: Path) -> None:
    try:
        ended = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN,
        )
    except subprocess.TimeoutExpired:
        raise NoPackageError(f"{' '.join(command)}: not done within {_WITHIN:g} s") from None
    if ended.returncode != 0:
        raise NoPackageError(f"{' '.join(command)}: {ended.stderr.strip()[-500:]}")


def _say(text: str) -> None:
    print(f"programs for the tests: {text}", file=sys.stderr, flush=True)
