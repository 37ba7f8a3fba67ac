"""Which of the generated classes of the Kubernetes client anything in the image could ask for.

The client has 1,700 of them, half of all modules in the image, and loads each by its name when it is asked for. A
class whose name is written nowhere else in the image cannot be asked for. "Written" is any name and any word of any
text in the code, but not in comments and docstrings: this keeps some that nobody uses, and leaves out none that
somebody does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from image.trimming import GENERATED

_WORD: Final = re.compile(r"\w+")
_CLASS: Final = re.compile(r"^class (\w+)", re.MULTILINE)
# The indexes of all names, by which they are loaded.
_INDEXES: Final = ("kubernetes/client/__init__.py", "kubernetes/aio/client/__init__.py")


def asked_for(folder: Path, names: set[str]) -> set[str]:
    """Which of these names are written in the modules of a folder, the classes themselves and their indexes apart."""
    found: set[str] = set()
    for source in sorted(folder.rglob("*.py")):
        path = source.relative_to(folder).as_posix()
        if path not in _INDEXES and not path.startswith(tuple(f"{each}/" for each in GENERATED)):
            found |= _written(source.read_text(errors="replace"), names)
    return found


def generated_names(site: Path) -> set[str]:
    """Name all generated classes."""
    files = (path for folder in GENERATED for path in (site / folder).glob("*.py") if path.name != "__init__.py")
    return {name for path in files for name in _CLASS.findall(path.read_text())}


def unreached(site: Path, names: Iterable[str]) -> set[str]:
    """Give the paths of the generated modules that none of these names asks for, directly or through another."""
    modules = {path: path.read_text() for folder in GENERATED for path in sorted((site / folder).glob("*.py"))}
    indexes = {path for path in modules if path.name == "__init__.py"}
    by_name: dict[str, list[Path]] = {}
    for path, text in modules.items():
        for name in _CLASS.findall(text) if path not in indexes else ():
            by_name.setdefault(name, []).append(path)
    reached: set[Path] = set()
    new = {path for name in set(names) & by_name.keys() for path in by_name[name]}
    while new:
        reached |= new
        mentioned = {name for path in new for name in _written(modules[path], set(by_name))}
        new = {path for name in mentioned for path in by_name[name]} - reached
    return {path.relative_to(site).as_posix() for path in modules.keys() - indexes - reached}


def _written(text: str, names: set[str]) -> set[str]:
    """Which of these names are in the code or in a text of a module, and not only where it explains itself."""
    if names.isdisjoint(_WORD.findall(text)):
        return set()  # most are, and are not parsed
    found: set[str] = set()
    explained: set[ast.AST] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                explained.add(node.value)
            case ast.Constant(value=str() as said) if node not in explained:
                found.update(_WORD.findall(said))
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                found.update(name.split("."))
            case _:
                pass
    return found & names
