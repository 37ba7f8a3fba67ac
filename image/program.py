"""The layer of the program itself: the one that changes, and so the small one. It also has the SBOM of all three."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from image.cache import made
from image.interpreter import compile_ahead
from image.layers import normalise, pack
from image.places import COMMAND, PACKAGE, PYTHON, REPOSITORY, SBOM, SITE, Architecture

_HERE: Final = Path(__file__).parent
_BUILDERS: Final = ("compiling", "interpreter", "layers", "places", "program", "sbom")
# Isolated: no variable of the environment and no folder that it is started in can give it other modules.
_SCRIPT: Final = f"#!/{PYTHON} -I\nfrom configregistry.__main__ import main\n\nmain()\n"


def version() -> str:
    """Read the program's version without importing it."""
    found = re.search(r'^__version__ = "([^"]+)"$', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def program(architecture: Architecture, base: Path, dependencies: Path, epoch: int) -> Path:
    """Give a folder with `root`, `layer.tar.gz` and `sbom.json`."""
    sources = [path for path in sorted(PACKAGE.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]

    def make(draft: Path) -> None:
        # Imported here: it costs half a second, and a build of which nothing changed does not need it.
        from image.sbom import write_sbom  # noqa: PLC0415

        root = draft / "root"
        for source in sources:
            target = root / SITE / PACKAGE.name / source.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        about = root / SITE / f"{PACKAGE.name}-{version()}.dist-info"
        (about / "licenses").mkdir(parents=True)
        shutil.copyfile(REPOSITORY / "LICENSE", about / "licenses" / "LICENSE")
        head = (
            "Metadata-Version: 2.4",
            f"Name: {PACKAGE.name}",
            f"Version: {version()}",
            "License-Expression: Apache-2.0",
        )
        (about / "METADATA").write_text("\n".join([*head, "License-File: LICENSE", ""]))
        (root / COMMAND).parent.mkdir(parents=True)
        (root / COMMAND).write_text(_SCRIPT)
        (root / COMMAND).chmod(0o755)
        compile_ahead(base / "root", architecture, root, SITE)
        write_sbom(draft / "sbom.json", base / "packages.json", dependencies / "packages.json", version(), epoch)
        (root / SBOM).parent.mkdir(parents=True)
        shutil.copyfile(draft / "sbom.json", root / SBOM)
        normalise(root)
        pack(root, draft / "layer.tar.gz")

    builders = [_HERE / f"{name}.py" for name in _BUILDERS]
    named = [part for source in sources for part in (source.relative_to(PACKAGE).as_posix(), source)]
    inputs = [base.name, dependencies.name, str(epoch), REPOSITORY / "LICENSE", *builders, *named]
    return made(f"program-{architecture.debian}", inputs, make)
