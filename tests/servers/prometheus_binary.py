"""Find a Prometheus, or get one without installing anything.

In this order: the variable PROMETHEUS, PATH, the user's cache, Debian's package unpacked into
that cache, a build of the Go module into it. What is in the cache is complete or absent: it is
renamed into place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.locks import exclusive

from .debian import NoPackageError, cache_directory, unpack

MODULE: Final = "github.com/prometheus/prometheus"
MODULE_VERSION: Final = "v0.315.0"
"""Prometheus 3.15: the module counts releases in its minor version."""

_DOWNLOAD: Final = 300.0
_BUILD: Final = 3600.0


class NoPrometheusError(Exception):
    """There is none, and none could be got; the message says what was tried."""


def find_prometheus() -> Path:
    """The path of a Prometheus that runs on this machine."""
    configured = os.environ.get("PROMETHEUS")
    if configured:
        path = Path(configured).absolute()
        if not _works(path):
            raise NoPrometheusError(f"PROMETHEUS={configured} does not run as a Prometheus")
        return path
    found = shutil.which("prometheus")
    if found and _works(Path(found)):
        return Path(found)
    cache = cache_directory("prometheus")
    cached = cache / "prometheus"
    if _works(cached):
        return cached
    with exclusive(cache / "lock", when_busy=lambda: _say("another process gets it; waiting")):
        if not _works(cached):
            _fill(cached)
    return cached


def _fill(cached: Path) -> None:
    ways: tuple[tuple[str, Callable[[Path], Path]], ...] = (
        ("Debian's package", _debian),
        (f"a build of {MODULE}", _build),
    )
    tried = []
    for name, way in ways:
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=cached.parent) as draft:
            try:
                got = way(Path(draft))
            except NoPrometheusError as error:
                _say(f"{name}: {error}")
                tried.append(f"{name}: {error}")
                continue
            if _works(got):
                got.replace(cached)
                return
            tried.append(f"{name}: it does not run here")
    raise NoPrometheusError("no Prometheus: set PROMETHEUS to one, or put one on PATH. Tried " + "; ".join(tried))


def _debian(draft: Path) -> Path:
    """The package's program; nothing is installed, so any user may do this."""
    _say("getting Debian's package (once, some 20 MB)")
    unpacked = draft / "unpacked"
    unpacked.mkdir()
    try:
        unpack("prometheus", unpacked)
    except NoPackageError as error:
        raise NoPrometheusError(str(error)) from None
    return unpacked / "usr" / "bin" / "prometheus"


def _build(draft: Path) -> Path:
    """Built in its own module: its go.mod has replacements, which `go install` refuses to
    follow."""
    if shutil.which("go") is None:
        raise NoPrometheusError("no Go here")
    _say(f"building {MODULE}@{MODULE_VERSION} (once, many minutes)")
    told = _run(["go", "mod", "download", "-json", f"{MODULE}@{MODULE_VERSION}"], draft, _DOWNLOAD)
    source = Path(json.loads(told)["Dir"])
    program = draft / "prometheus"
    _run(
        ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(program), "./cmd/prometheus"],
        source,
        _BUILD,
        {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"},
    )
    return program


def _works(path: Path) -> bool:
    """Whether it is there, runs, and is a Prometheus: other programs have had the name."""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and "prometheus, version" in told.stdout + told.stderr


def _run(
    command: Sequence[str],
    directory: Path,
    within: float,
    environment: dict[str, str] | None = None,
) -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
        )
    except subprocess.TimeoutExpired:
        raise NoPrometheusError(f"{' '.join(command)}: not done within {within:g} s") from None
    if ended.returncode != 0:
        raise NoPrometheusError(f"{' '.join(command)}: {ended.stderr.strip()[-500:]}")
    return ended.stdout


def _say(text: str) -> None:
    print(f"prometheus for the tests: {text}", file=sys.stderr, flush=True)
