"""The Debian packages that the image is made of: pinned in debian.lock, downloaded by apt-get, unpacked by dpkg-deb.

apt verifies who signed them; the lock says which they were, so that two builds have the same. Debian removes a
package from its archive when it publishes a fix for it. A build then takes the fix and says so, unless it was asked to
be exact: `python -m image lock` writes what Debian offers today.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from image.cache import say
from image.errors import ImageError
from image.places import LOCK, Architecture

RUNTIME: Final = (
    "base-files", "ca-certificates", "gcc-12-base", "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1",
    "liblzma5", "libpython3.11-minimal", "libpython3.11-stdlib", "libssl3", "libstdc++6", "python3.11-minimal",
    "zlib1g",
)  # fmt: skip
"""What the image has something of."""
_WITHIN: Final = 600.0
_DEBIAN: Final = "the image is made of Debian 12's packages: build it on Debian 12, or with Docker (image/Dockerfile)"


class Pin(NamedTuple):
    """One line of the lock."""

    package: str
    version: str
    architecture: str
    sha256: str


class Unpacked(NamedTuple):
    """A package of which the files are in a folder; `fields` is its control file."""

    pin: Pin
    fields: str
    folder: Path

    @property
    def copyright(self) -> str:
        """Its licences, as Debian tells them."""
        folder = self.folder / "usr" / "share" / "doc" / self.pin.package
        if folder.is_symlink():
            # To that of another package of the same source, which it depends on.
            other = folder.readlink().name
            folder = self.folder.parent / other / "usr" / "share" / "doc" / other
        return (folder / "copyright").read_text(errors="replace")


def tools(architecture: Architecture) -> tuple[str, ...]:
    """Name the packages that the build needs of Debian: `strip`, so that it is the same one everywhere."""
    return (f"binutils-{architecture.machine.replace('_', '-')}-linux-gnu", "libbinutils", "libzstd1")


def locked(architecture: Architecture) -> list[Pin]:
    """Read the lock for an architecture."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return [pin for pin in (Pin(*line) for line in lines) if pin.architecture == architecture.debian]


def write_lock(architecture: Architecture) -> None:
    """Pin what Debian offers today, for this architecture; the lines of others stay."""
    with tempfile.TemporaryDirectory() as directory:
        names = (*RUNTIME, *tools(architecture))
        pins = [_pin(name, architecture, _download(name, None, Path(directory))) for name in names]
    lines = LOCK.read_text().splitlines()
    head = [line for line in lines if line.startswith("#")]
    others = [line for line in lines if line not in head and line.split()[2] != architecture.debian]
    LOCK.write_text("\n".join([*head, *sorted([*(" ".join(pin) for pin in pins), *others]), ""]))


def fetch(packages: Iterable[str], architecture: Architecture, into: Path, *, exact: bool) -> list[Unpacked]:
    """Download these packages, check them against the lock, and unpack each into a folder of its own."""
    pins = {pin.package: pin for pin in locked(architecture)}
    if exact and (unknown := sorted(set(packages) - set(pins))):
        raise ImageError(f"{LOCK.name} has no {unknown[0]} for {architecture.debian}: run `python -m image lock`")
    into.mkdir()
    unpacked = []
    for package in packages:
        archive = _fetch_one(package, pins.get(package), architecture, into, exact=exact)
        folder = into / package
        _run(["dpkg-deb", "-x", str(archive), str(folder)], into)
        fields = _run(["dpkg-deb", "-f", str(archive)], into)
        unpacked.append(Unpacked(_pin(package, architecture, archive), fields, folder))
        archive.unlink()
    return unpacked


def _fetch_one(package: str, pin: Pin | None, architecture: Architecture, into: Path, *, exact: bool) -> Path:
    if pin is not None and _offers(package, pin.version):
        archive = _download(package, pin.version, into)
        if (found := _pin(package, architecture, archive)) != pin:
            raise ImageError(f"{package} {pin.version}: SHA-256 is {found.sha256}, {LOCK.name} expects {pin.sha256}")
        return archive
    if exact and pin is not None:
        raise ImageError(
            f"Debian no longer offers {package} {pin.version}: run `python -m image lock`, look at what changed, commit"
        )
    say(f"Debian no longer offers the {package} of {LOCK.name}; taking today's. `python -m image lock` pins it")
    return _download(package, None, into)


def _offers(package: str, version: str) -> bool:
    def known() -> bool:
        asked = subprocess.run(["apt-cache", "show", f"{package}={version}"], capture_output=True, check=False)
        return asked.returncode == 0 and bool(asked.stdout)

    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ImageError(f"no apt-get and dpkg-deb here: {_DEBIAN}")
    if known():
        return True
    if os.geteuid() == 0:
        say("updating apt's lists")
        _run(["apt-get", "-q", "update"], Path("/"))
    return known()


def _download(package: str, version: str | None, into: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=into) as draft:
        _run(["apt-get", "-q", "download", f"{package}={version}" if version else package], Path(draft))
        archive = next(iter(Path(draft).glob("*.deb")), None)
        if archive is None:
            raise ImageError(f"apt-get downloaded no {package}: {_DEBIAN}")
        return archive.rename(into / f"{package}.deb")


def _pin(package: str, architecture: Architecture, archive: Path) -> Pin:
    version = _run(["dpkg-deb", "-f", str(archive), "Version"], archive.parent).strip()
    return Pin(package, version, architecture.debian, hashlib.sha256(archive.read_bytes()).hexdigest())


def _run(command: Sequence[str], directory: Path) -> str:
    try:
        ended = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WITHIN,
        )
    except FileNotFoundError:
        raise ImageError(f"no {command[0]} here: {_DEBIAN}") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{' '.join(command)}: not done within {_WITHIN:g} s") from None
    if ended.returncode != 0:
        raise ImageError(f"{' '.join(command)}: {ended.stderr.strip()[-500:]}; {_DEBIAN}")
    return ended.stdout
