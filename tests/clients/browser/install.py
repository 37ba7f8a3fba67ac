"""Get the browser, once: fetched by npm, unpacked by us, because its own unpacking is into a shared /tmp."""

from __future__ import annotations

import io
import platform
import shutil
import tarfile
from pathlib import Path
from typing import Final

import brotli

from tests.clients.js.install import NoNodeError, cached, find_node, install, pins
from tests.servers.debian import Program

HERE: Final = Path(__file__).parent
_PACKED: Final = Path("node_modules", "@sparticuz", "chromium", "bin")
_PIECE: Final = 1 << 20


class NoBrowserError(Exception):
    """There is none; the message says why."""


def find_browser() -> Program:
    """Give the browser of the cache. Raises `NoBrowserError` where it can never be had, `NoNodeError` otherwise."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise NoBrowserError(f"the package has a browser for Linux x86_64 only, not for {machine}")
    root = cached("chromium", (*pins(HERE), Path(__file__)), _get)
    return Program(root / "chromium", {"LD_LIBRARY_PATH": str(root / "lib"), "FONTCONFIG_PATH": str(root / "fonts")})


def _get(draft: Path) -> None:
    fetched = draft / "fetched"
    fetched.mkdir()
    install(find_node(), HERE, fetched)
    packed = fetched / _PACKED
    if not packed.is_dir():
        raise NoNodeError(f"the package has no {_PACKED}")
    _unpack(packed / "chromium.br", draft / "chromium")
    # Libraries that few servers have; those for drawing are looked for beside the program.
    for name, where in (("al2023", "."), ("swiftshader", "."), ("fonts", "fonts")):
        with tarfile.open(fileobj=io.BytesIO(brotli.decompress((packed / f"{name}.tar.br").read_bytes()))) as archive:
            archive.extractall(draft / where, filter="data")
    shutil.rmtree(fetched)


def _unpack(packed: Path, program: Path) -> None:
    decompressor = brotli.Decompressor()
    with packed.open("rb") as source, program.open("wb") as target:
        while piece := source.read(_PIECE):
            target.write(decompressor.process(piece))
    if not decompressor.is_finished():
        raise NoNodeError(f"{packed.name} is cut short")
    program.chmod(0o755)
