"""Prometheus's own checker, of Debian's package: it says whether rules, their tests and metrics are well made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.servers.debian import find_program


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """Run it; gives all that it said. Raises `AssertionError` with that if it is not content."""
    program = find_program("promtool", "/usr/bin/promtool", ["prometheus"])
    ended = subprocess.run(
        [program.path, *arguments],
        input=given,
        env={**os.environ, **program.environment},
        capture_output=True,
        check=False,
        timeout=300,
    )
    said = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 0, said
    return said
