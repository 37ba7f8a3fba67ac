"""Compile a tree ahead, with the image's own interpreter: `python3.11 compiling.py ROOT FOLDER`.

Nobody can write beside the sources in a container, so each start would compile again. Unchecked hashes: the sources
cannot change either, and are not even read. In one process and in order, or else the result differs between runs
(marshal writes what is shared, and that depends on what was compiled before).
Runs by itself: it must import nothing of this package.
"""

from __future__ import annotations

import py_compile
import sys
from pathlib import Path


def compile_tree(root: Path, folder: str) -> None:
    """Compile all modules of a folder under a root, as if the root were /."""
    for source in sorted((root / folder).rglob("*.py")):
        py_compile.compile(
            str(source),
            dfile=f"/{source.relative_to(root)}",
            doraise=True,
            quiet=1,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


if __name__ == "__main__":
    compile_tree(Path(sys.argv[1]), sys.argv[2])
