"""Nothing that the image leaves out is imported by anything in it that the program can reach.

Reached is what an import statement names, wherever it stands (also in a function that nobody may ever call), in any
module that is reached, from the program on. What is imported by a name that is computed cannot be seen so: the tests
that start the image see to that, and generated classes of the Kubernetes client are found by the words of all modules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from image import trimming, wheels
from image.places import SITE, STDLIB, this_architecture
from tests.integration.image_root import Built, image

__all__ = ["image"]

# Imports that fail in the image, and may.
MAY_FAIL: Final = {
    ("uuid", "_uuid"): "tried; without it uuid asks the kernel",
    ("difflib", "doctest"): "its own test, in a function",
    ("heapq", "doctest"): "the same",
    ("pickle", "doctest"): "the same",
    ("pydoc", "pydoc_data"): "the text of help(); pydoc is imported for other things",
    ("pyrsistent._pvector", "pvectorc"): "not with PYRSISTENT_NO_C_EXTENSION, which configregistry sets",
    ("zstandard", "zstandard.backend_cffi"): "CPython takes backend_c",
}


def test_what_is_left_out_is_not_imported(image: Built) -> None:
    """The proof for the tables of `trimming`."""
    present = {
        **_modules(image.root / STDLIB),
        **_modules(image.root / STDLIB / "lib-dynload"),
        **_modules(image.root / SITE),
    }
    left_out = (set(_modules(wheels.wheels(this_architecture()) / "site")) | _left_out_of_stdlib()) - present.keys()
    failing = {(importer, name) for importer, name in _reached_imports(present) if name in left_out}
    assert failing == MAY_FAIL.keys()


def _left_out_of_stdlib() -> set[str]:
    """The first part of a name is enough: packages of the standard library are left out whole or not at all."""
    return {
        name
        for name in sys.stdlib_module_names
        if any(
            trimming.is_left_out(path, trimming.STDLIB)
            for path in (f"{name}.py", f"{name}/__init__.py", f"lib-dynload/{name}.cpython-311.so")
        )
    }


def _modules(folder: Path) -> dict[str, Path]:
    """All modules of a folder by name."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix not in {".py", ".so"} or "site-packages" in path.parts:
            continue
        parts = list(path.relative_to(folder).parts)
        parts[-1] = parts[-1].partition(".")[0]
        if parts[-1] == "__init__":
            parts.pop()
        if parts and all(part.isidentifier() for part in parts):
            found[".".join(parts)] = path
    return found


def _reached_imports(present: dict[str, Path]) -> Iterator[tuple[str, str]]:
    waiting = [name for name in present if name.split(".")[0] == "configregistry"]
    seen = set(waiting)
    while waiting:
        importer = waiting.pop()
        if present[importer].suffix == ".so":
            continue
        for name in _imports(importer, present[importer]):
            parts = name.split(".")
            for whole in (".".join(parts[: length + 1]) for length in range(len(parts))):
                yield importer, whole
                if whole in present and whole not in seen:
                    seen.add(whole)
                    waiting.append(whole)


def _imports(module: str, path: Path) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
