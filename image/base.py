"""The base layer: Debian's interpreter with what of its library is needed, C libraries, certificates, and no shell.

What nobody named is not there: see the tables of `trimming`. Scanners find the packages in /var/lib/dpkg/status.d, and
lawyers their licences in /usr/share/doc.
"""

from __future__ import annotations

import json
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from image.cache import made
from image.debian import RUNTIME, Unpacked, fetch, tools
from image.interpreter import compile_ahead
from image.layers import normalise, pack
from image.places import CERTIFICATES, LOCK, PYTHON, STDLIB, USER, Architecture
from image.trimming import LIBRARIES, WHOLE, is_left_out
from image.trimming import STDLIB as LEFT_OUT

_HERE: Final = Path(__file__).parent
_BUILDERS: Final = ("base", "compiling", "debian", "interpreter", "layers", "places", "trimming")
_FILES: Final = {
    "etc/passwd": f"root:x:0:0:root:/root:/nonexistent\nnonroot:x:{USER}:{USER}:nonroot:/nonexistent:/nonexistent\n",
    "etc/group": f"root:x:0:\nnonroot:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_LINKS: Final = {
    "lib": "usr/lib",
    "usr/bin/python3": "python3.11",
    "usr/lib/ssl/cert.pem": f"/{CERTIFICATES}",
    "usr/lib/ssl/certs": "/etc/ssl/certs",
}
_LICENCE: Final = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
# Texts that are not in Debian's format for machines name the file of a licence that many share; or are told here.
_SHARED: Final = re.compile(r"/common-licenses/([\w.+-]*\w)")
_TOLD: Final = {
    "gcc-12-base": ["GPL-3.0-or-later WITH GCC-exception-3.1"],
    "libgcc-s1": ["GPL-3.0-or-later WITH GCC-exception-3.1"],
    "libstdc++6": ["GPL-3.0-or-later WITH GCC-exception-3.1"],
    "libpython3.11-minimal": ["PSF-2.0"],
    "libpython3.11-stdlib": ["PSF-2.0"],
    "python3.11-minimal": ["PSF-2.0"],
}


def base(architecture: Architecture, *, exact: bool) -> Path:
    """Give a folder with `root`, `layer.tar.gz`, and `packages.json`: what of Debian is in it."""

    def make(draft: Path) -> None:
        unpacked = fetch(RUNTIME, architecture, draft / "packages", exact=exact)
        _fill(draft / "root", unpacked, architecture)
        compile_ahead(draft / "root", architecture, draft / "root", STDLIB)
        (draft / "packages.json").write_text(json.dumps([_described(each) for each in unpacked]))
        shutil.rmtree(draft / "packages")
        normalise(draft / "root")
        pack(draft / "root", draft / "layer.tar.gz")

    builders = [_HERE / f"{name}.py" for name in _BUILDERS]
    # A build that may not differ from the lock is not served by one that perhaps did.
    return made(f"base-{architecture.debian}", [architecture.debian, str(exact), LOCK, *builders], make)


def toolbox(architecture: Architecture, *, exact: bool) -> Path:
    """Give a folder with the tools of the build; nothing of it gets into the image."""

    def make(draft: Path) -> None:
        for each in fetch(tools(architecture), architecture, draft / "packages", exact=exact):
            shutil.copytree(each.folder, draft, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(draft / "packages")

    return made(f"tools-{architecture.debian}", [architecture.debian, str(exact), LOCK, _HERE / "debian.py"], make)


def _fill(root: Path, unpacked: list[Unpacked], architecture: Architecture) -> None:
    for each in unpacked:
        package = each.pin.package
        for path in sorted(each.folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            inside = _merged(path.relative_to(each.folder).as_posix())
            if _is_wanted(package, inside, architecture):
                _copy(path, root / inside)
        _write(root / f"var/lib/dpkg/status.d/{package}", each.fields)
        _write(root / f"usr/share/doc/{package}/copyright", each.copyright)
        if package == "ca-certificates":
            found = sorted((each.folder / "usr/share/ca-certificates/mozilla").glob("*.crt"))
            _write(root / CERTIFICATES, "".join(one.read_text() for one in found))
    for name, text in _FILES.items():
        _write(root / name, text)
    for name, target in {**_LINKS, **_loader(architecture)}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    assert (root / PYTHON).is_file()


def _merged(path: str) -> str:
    """Where a file is on a system of which /lib is a link to /usr/lib."""
    return f"usr/{path}" if path.startswith(("lib/", "lib64/", "bin/", "sbin/")) else path


def _is_wanted(package: str, inside: str, architecture: Architecture) -> bool:
    if package in LIBRARIES:
        return any(fnmatchcase(inside, f"{architecture.libraries}/{name}") for name in LIBRARIES[package])
    if not any(fnmatchcase(inside, pattern) for pattern in WHOLE[package]):
        return False
    return not is_left_out(inside.removeprefix(f"{STDLIB}/"), LEFT_OUT)


def _loader(architecture: Architecture) -> dict[str, str]:
    """Give the links by which the kernel finds the loader that binaries name."""
    folder, name = architecture.loader.split("/")
    if folder == "lib":
        return {f"usr/lib/{name}": f"{architecture.triplet}/{name}"}
    return {folder: f"usr/{folder}", f"usr/{folder}/{name}": f"../lib/{architecture.triplet}/{name}"}


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _described(each: Unpacked) -> dict[str, object]:
    """What the SBOM says of a package."""
    pattern = _LICENCE if each.copyright.startswith("Format:") else _SHARED
    licences = _TOLD.get(each.pin.package) or sorted({found.strip() for found in pattern.findall(each.copyright)})
    homepage = re.search(r"^Homepage: (\S+)$", each.fields, re.MULTILINE)
    return {
        **each.pin._asdict(),
        "licences": licences,
        "homepage": homepage[1] if homepage is not None else "",
    }
