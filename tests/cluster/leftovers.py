"""Clean up after test processes that were killed before they could.

Where the kernel ends a cluster's processes with their starter (Linux), this
only removes directories; elsewhere it ends the processes too. It touches only
directories that name an owner of this boot and pid namespace who is dead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from .process import Process, own_identity, read_identity

PREFIX = "configregistry-cluster-"
OWNER_FILE = "owner.json"


def end_recorded(pid_files: Path) -> None:
    """Kill every process that has a pid file there and still is the one recorded."""
    for pid_file in pid_files.glob("*.json"):
        if identity := read_identity(pid_file):
            Process(identity).end(grace=0)


def sweep() -> None:
    """End and remove the temporary clusters whose owners are gone."""
    scope = own_identity().scope
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            ours = directory.stat().st_uid == os.getuid()
        except OSError:  # removed by its owner, or another sweep, just now
            continue
        owner = read_identity(directory / OWNER_FILE)
        # No owner: it is being made, or unmade, at this moment. Another scope:
        # a container that shares this directory; its pids mean nothing here.
        if not ours or owner is None or owner.scope != scope or owner.alive():
            continue
        end_recorded(directory / "run")
        shutil.rmtree(directory, ignore_errors=True)
