"""Where things are: in the repository, in the user's cache, and in the image. Nothing here touches a file."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image.errors import ImageError

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = REPOSITORY / "operator" / "configregistry"
REQUIREMENTS: Final = REPOSITORY / "requirements.txt"
LOCK: Final = Path(__file__).with_name("debian.lock")

# Paths in the image have no leading slash, so that they can be put behind any root.
PYTHON: Final = "usr/bin/python3.11"
STDLIB: Final = "usr/lib/python3.11"
SITE: Final = "usr/local/lib/python3.11/dist-packages"
"""Debian's interpreter looks here for what Debian did not package."""
COMMAND: Final = "usr/bin/configregistry"
SBOM: Final = "usr/share/sbom/configregistry.cdx.json"
CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"
USER: Final = 65532
"""The number that distroless images use too; it has no name on any node."""


@dataclass(frozen=True)
class Architecture:
    """What a processor is called by whom."""

    debian: str
    oci: str
    machine: str
    loader: str
    """The dynamic loader that the kernel looks for, as binaries name it."""

    @property
    def triplet(self) -> str:
        """Debian's name of the folder with its libraries."""
        return f"{self.machine}-linux-gnu"

    @property
    def libraries(self) -> str:
        """That folder."""
        return f"usr/lib/{self.triplet}"


ARCHITECTURES: Final = (
    Architecture("amd64", "amd64", "x86_64", "lib64/ld-linux-x86-64.so.2"),
    Architecture("arm64", "arm64", "aarch64", "lib/ld-linux-aarch64.so.1"),
)


def this_architecture() -> Architecture:
    """Name this machine's. Raises `ImageError` for one that the image is not made for."""
    machine = platform.machine()
    for known in ARCHITECTURES:
        if known.machine == machine:
            return known
    names = " or ".join(known.machine for known in ARCHITECTURES)
    raise ImageError(f"this machine is {machine}: expected {names}; build the image on one of these")


def cache_directory() -> Path:
    """Where the user's copies of layers and wheels are kept; it may be deleted at any time."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the XDG specification.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"  # noqa: PTH117
    return base / "configregistry" / "image"
