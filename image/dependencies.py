"""The layer of the Python dependencies: the wheels without what nobody imports, stripped and compiled ahead."""

from __future__ import annotations

import json
import re
import shutil
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from image.cache import made
from image.interpreter import compile_ahead, strip
from image.layers import normalise, pack
from image.places import PACKAGE, SITE, Architecture
from image.trimming import DEPENDENCIES, is_left_out
from image.unreached import asked_for, unreached
from image.wheels import names, wheels

_HERE: Final = Path(__file__).parent
_BUILDERS: Final = ("compiling", "dependencies", "interpreter", "layers", "places", "trimming", "unreached", "wheels")


def dependencies(architecture: Architecture, base: Path, toolbox: Path) -> Path:
    """Give a folder with `root`, `layer.tar.gz`, and `packages.json`: which distributions are in it."""
    unpacked = wheels(architecture)
    # Of the program only what decides which generated classes stay; so most of its changes leave this layer alone.
    generated = set((unpacked / "generated.txt").read_text().split())
    said = sorted(asked_for(PACKAGE, generated))

    def make(draft: Path) -> None:
        site = draft / "root" / SITE
        _fill(unpacked / "site", site)
        for inside in unreached(site, {*said, *asked_for(site, generated)}):
            (site / inside).unlink()
        strip(base / "root", toolbox, architecture, sorted(site.rglob("*.so")))
        compile_ahead(base / "root", architecture, draft / "root", SITE)
        normalise(draft / "root")
        pack(draft / "root", draft / "layer.tar.gz")
        (draft / "packages.json").write_text(json.dumps(_described(unpacked, site)))

    builders = [_HERE / f"{name}.py" for name in _BUILDERS]
    inputs: list[str | Path] = [unpacked.name, base.name, toolbox.name, *said, *builders]
    return made(f"dependencies-{architecture.debian}", inputs, make)


def _fill(source: Path, site: Path) -> None:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source).as_posix()
        if path.is_file() and not is_left_out(inside, DEPENDENCIES):
            (site / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, site / inside)


def _described(unpacked: Path, site: Path) -> list[dict[str, object]]:
    """What the SBOM says of each distribution that is in the image."""
    by_name = {_canonical(wheel.file.split("-")[0]): wheel for wheel in names(unpacked)}
    found = []
    for file in sorted(site.glob("*.dist-info/METADATA")):
        metadata = HeaderParser().parsestr(file.read_text(errors="replace"))
        name = _canonical(metadata["Name"])
        found.append({
            "package": name,
            "version": metadata["Version"],
            "sha256": by_name[name].sha256,
            "licence": metadata["License-Expression"] or "",
            "licence_text": (metadata["License"] or "").partition("\n")[0],
            "classifiers": [
                each.rpartition(" :: ")[2]
                for each in metadata.get_all("Classifier") or ()
                if each.startswith("License :: ") and each != "License :: OSI Approved"
            ],
            "summary": metadata["Summary"] or "",
        })  # fmt: skip
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
