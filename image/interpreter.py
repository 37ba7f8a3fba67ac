"""Run the programs of an unpacked root file system in place, by its own loader and libraries: no chroot, no right."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from image.errors import ImageError
from image.places import PYTHON, Architecture

_COMPILER: Final = Path(__file__).with_name("compiling.py")
_WITHIN: Final = 900.0


def compile_ahead(base: Path, architecture: Architecture, root: Path, folder: str) -> None:
    """Compile the modules of a folder under a root with the interpreter of `base`."""
    # No site, nothing of the environment but a fixed hash seed: the order of sets is in the result.
    _run(base, architecture, PYTHON, ["-P", "-s", "-S", str(_COMPILER), str(root), folder])


def strip(base: Path, tools: Path, architecture: Architecture, libraries: Sequence[Path]) -> None:
    """Remove the debugging symbols that wheels bring, with Debian's strip."""
    if libraries:
        program = f"usr/bin/{architecture.triplet}-strip"
        given = ["--strip-unneeded", "--preserve-dates", *map(str, libraries)]
        _run(base, architecture, program, given, beside=tools)


def _run(
    base: Path, architecture: Architecture, program: str, arguments: Sequence[str], *, beside: Path | None = None
) -> None:
    folders = [root / architecture.libraries for root in (base, beside) if root is not None]
    loader = base / architecture.libraries / Path(architecture.loader).name
    command = [str(loader), "--library-path", ":".join(map(str, folders)), str((beside or base) / program), *arguments]
    environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_WITHIN)
    if ended.returncode != 0:
        raise ImageError(f"{Path(program).name} failed: {ended.stderr.strip()[-1000:]}")
