"""The Python dependencies: exactly the wheels that requirements.txt has the hashes of, unpacked.

pip downloads and verifies them. They are unpacked here and not installed: what an installation adds (scripts, records,
names of folders and indexes) is not wanted. Nothing is built from source, so nothing of this machine gets in.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

from image.cache import made
from image.errors import ImageError
from image.places import REQUIREMENTS, Architecture
from image.unreached import generated_names

_GLIBC: Final = 36
"""Debian 12's: wheels for an older one run too."""
_WITHIN: Final = 900.0
_DATA: Final = re.compile(r"^[^/]+\.data/(\w+)/(.+)$")


class Wheel(NamedTuple):
    """A wheel that was unpacked."""

    file: str
    sha256: str


def wheels(architecture: Architecture) -> Path:
    """Give a folder: unpacked in `site`, named in `wheels.json`, and in `generated.txt` what `unreached` is about."""
    inputs = (Path(__file__), Path(__file__).with_name("unreached.py"), REQUIREMENTS, architecture.debian)
    return made(f"wheels-{architecture.debian}", inputs, lambda draft: _fill(draft, architecture))


def names(folder: Path) -> list[Wheel]:
    """Name the wheels of such a folder."""
    return [Wheel(*each) for each in json.loads((folder / "wheels.json").read_text())]


def _fill(draft: Path, architecture: Architecture) -> None:
    site = draft / "site"
    with tempfile.TemporaryDirectory(dir=draft) as downloads:
        _download(architecture, Path(downloads))
        found = sorted(Path(downloads).glob("*.whl"))
        for wheel in found:
            _unpack(wheel, site)
        listed = [(wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest()) for wheel in found]
    (draft / "wheels.json").write_text(json.dumps(listed))
    (draft / "generated.txt").write_text("\n".join(sorted(generated_names(site))))


def _download(architecture: Architecture, into: Path) -> None:
    machine = architecture.machine
    tags = (*(f"manylinux_2_{minor}" for minor in range(_GLIBC, 4, -1)), "manylinux2014", "manylinux2010", "manylinux1")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp",
        *(f"--platform={tag}_{machine}" for tag in tags), f"--requirement={REQUIREMENTS}", f"--dest={into}",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN)
    if ended.returncode != 0:
        raise ImageError(f"pip could not download the wheels of {REQUIREMENTS.name}: {ended.stderr.strip()[-1000:]}")


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = _DATA.match(name)
            if data is not None and data[1] not in {"purelib", "platlib"}:
                continue  # scripts and headers
            target = site / (data[2] if data is not None else name)
            if not target.resolve().is_relative_to(site.resolve()):
                raise ImageError(f"{wheel.name} wants to write {name}: outside of its folder")
            if name.endswith("/"):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
