"""Build the collector, once for each version of its sources, into the user's cache: complete or absent.

The components are pinned in collector/go.mod. It is not kept by `go mod tidy`: that wants what only the tests of
the components' own dependencies need, and some of these modules no proxy has.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.cluster.locks import exclusive
from tests.servers.debian import cache_directory

MODULE: Final = Path(__file__).with_name("collector")
_FLAGS: Final = ("-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w")
_WITHIN: Final = 1800.0


class NoCollectorError(Exception):
    """It could not be built; the message says why."""


def find_collector() -> Path:
    """Give the program."""
    cache = cache_directory("otel")
    target = cache / f"otelcol-{_digest()}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(cache / "lock", when_busy=lambda: _say("another process builds it; waiting")):
            if not target.exists():
                _build(target)
    return target


def _build(target: Path) -> None:
    _say("building the OpenTelemetry Collector (once, a minute)")
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=target.parent) as draft:
        made = Path(draft) / target.name
        _go("build", *_FLAGS, "-o", str(made), ".")
        made.rename(target)


def _digest() -> str:
    digest = hashlib.sha256("\0".join((_go("env", "GOVERSION", "GOOS", "GOARCH"), *_FLAGS)).encode())
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def _go(*arguments: str) -> str:
    # Static, and not as part of a workspace around the checkout, which would unpin the versions.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    try:
        ended = subprocess.run(
            ("go", *arguments),
            cwd=MODULE,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN,
        )
    except FileNotFoundError:
        raise NoCollectorError("Go is missing: the collector is built from source with it") from None
    except subprocess.TimeoutExpired:
        raise NoCollectorError(f"go {arguments[0]}: not done within {_WITHIN:g} s") from None
    if ended.returncode != 0:
        raise NoCollectorError(f"go {arguments[0]}: {ended.stderr.strip()[-2000:]}")
    return ended.stdout


def _say(text: str) -> None:
    print(f"collector of the tests: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    find_collector()
