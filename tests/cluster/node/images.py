"""The images that a node cannot be without, and the one for tests: static programs built here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.cluster.build import CLIENT, COREDNS, PAUSE, Program, ensure_built
from tests.cluster.oci import Image, write_archive

PAUSE_IMAGE: Final = "configregistry.test/pause:1"
COREDNS_IMAGE: Final = "configregistry.test/coredns:1"
CLIENT_IMAGE: Final = "configregistry.test/client:1"

_NAMES: Final = {PAUSE_IMAGE: PAUSE, COREDNS_IMAGE: COREDNS, CLIENT_IMAGE: CLIENT}
_ROOT: Final = "0:0"


def import_all(load: Callable[[Path], None]) -> None:
    """Write an archive of each and hand it over."""
    for name, program in _NAMES.items():
        import_one(name, program, load)


def import_one(name: str, program: Program, load: Callable[[Path], None]) -> None:
    """Write an archive of one program and hand it over."""
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / f"{program.name}.tar"
        write_program_image(archive, name, program)
        load(archive)


def write_program_image(archive: Path, name: str, program: Program) -> None:
    """Write the image of a static program of ours, which its entry point is."""
    inside = f"/{program.name}"
    # CoreDNS listens on port 53.
    user = _ROOT if program is COREDNS else Image.user
    write_archive(archive, Image(name, {inside: ensure_built(program) / program.name}, [inside], user))
