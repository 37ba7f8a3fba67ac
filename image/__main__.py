"""`python -m image`: make the image; see README.md beside this."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from image.base import base, toolbox
from image.cache import say
from image.debian import write_lock
from image.dependencies import dependencies
from image.errors import ImageError
from image.layers import Layer, packed
from image.oci import labels, write_archive
from image.places import Architecture, this_architecture
from image.program import program, version

_LAYERS: Final = ("base", "dependencies", "program")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; gives the exit code."""
    given = _parser().parse_args(arguments)
    try:
        architecture = this_architecture()
        if given.command == "lock":
            write_lock(architecture)
            return 0
        folders = _make(architecture, given.locked, given.epoch)
        if given.layers is not None:
            for name, folder in zip(_LAYERS, folders, strict=True):
                shutil.copytree(folder / "root", given.layers / name, symlinks=True)
        if given.rootfs is not None:
            for folder in folders:
                shutil.copytree(folder / "root", given.rootfs, symlinks=True, dirs_exist_ok=True)
        if given.output is not None:
            _archive(given, architecture, folders)
    except ImageError as error:
        say(str(error))
        return 1
    return 0


def _make(architecture: Architecture, exact: bool, epoch: int) -> tuple[Path, Path, Path]:
    below = base(architecture, exact=exact)
    needed = dependencies(architecture, below, toolbox(architecture, exact=exact))
    return below, needed, program(architecture, below, needed, epoch)


def _archive(given: argparse.Namespace, architecture: Architecture, folders: tuple[Path, ...]) -> None:
    began = time.monotonic()
    layers = [packed(folder / "layer.tar.gz") for folder in folders]
    about = labels(version(), given.revision, given.epoch)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    digest = write_archive(given.output, given.name, architecture, layers, about, given.epoch)
    shutil.copyfile(folders[-1] / "sbom.json", given.output.with_name(f"{given.output.name}.cdx.json"))
    print(digest)
    for name, layer in zip(_LAYERS, layers, strict=True):
        say(_size(name, layer))
    total = Layer(given.output, "", "", sum(each.size for each in layers), sum(each.unpacked for each in layers))
    say(f"{_size('all', total)}, written in {time.monotonic() - began:.1f} s")


def _size(name: str, layer: Layer) -> str:
    return f"{name}: {layer.size / 1e6:.1f} MB, unpacked {layer.unpacked / 1e6:.1f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m image", description="Make the container image without an engine.")
    parser.add_argument(
        "command", nargs="?", choices=["build", "lock"], default="build", help="lock: pin what Debian offers today"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the OCI archive, and its SBOM as FILE.cdx.json"
    )
    parser.add_argument("--name", default="configregistry.dev/configregistry:dev", help="default: %(default)s")
    parser.add_argument("--rootfs", type=Path, metavar="DIR", help="write the whole root file system there")
    parser.add_argument(
        "--layers", type=Path, metavar="DIR", help="write base, dependencies and program there, each a root"
    )
    parser.add_argument("--locked", action="store_true", help="fail when Debian no longer offers what debian.lock pins")
    parser.add_argument(
        "--revision", default="", metavar="COMMIT", help="for the label org.opencontainers.image.revision"
    )
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    parser.add_argument(
        "--epoch", type=int, default=epoch, metavar="SECONDS", help="time of creation; default: SOURCE_DATE_EPOCH, or 0"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
