"""A cgroup of its own for all the pods of one node, in every hierarchy there is; removed with all below it.

Only what bears the name it is given is ever touched.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.waiting import wait_for

_MOUNTS = Path("/proc/self/mounts")
_COPIED = ("cpuset.cpus", "cpuset.mems")


def make(name: str) -> None:
    """Make it everywhere; its processes come later, from the kubelet. Raises `ClusterError`."""
    roots = _hierarchies()
    if not roots:
        message = "no cgroups are mounted here, and a kubelet needs them; choose CLUSTER=kind or CLUSTER=external"
        raise ClusterError(message)
    for root in roots:
        try:
            (root / name).mkdir()
        except OSError as error:
            message = (
                f"cannot make the cgroup {root / name}: {error.strerror}. A node needs root of the machine itself, not "
                "of a container; elsewhere choose CLUSTER=kind or CLUSTER=external"
            )
            raise ClusterError(message) from None
        for each in _COPIED:  # of the first version; nobody may enter while they are empty
            if (root / name / each).exists() and not (root / name / each).read_text().strip():
                (root / name / each).write_text((root / each).read_text())


def remove(name: str) -> None:
    """Remove it everywhere, once the processes are gone; again does nothing."""
    assert name.startswith("configregistry-"), "only what is ours"

    def gone() -> bool:
        for root in _hierarchies():
            if (root / name).exists():
                for below in sorted((root / name).rglob("*/"), key=lambda path: len(path.parts), reverse=True):
                    _rmdir(below)
                _rmdir(root / name)
        return not exists(name)

    wait_for(gone, f"the end of the cgroups {name}")


def exists(name: str) -> bool:
    """Tell whether it is anywhere."""
    return any((root / name).exists() for root in _hierarchies())


def _rmdir(path: Path) -> None:
    # Busy for a moment after its last process; asked again.
    with contextlib.suppress(OSError):
        path.rmdir()


def _hierarchies() -> list[Path]:
    lines = [line.split() for line in _MOUNTS.read_text().splitlines()]
    mounted = [Path(fields[1]) for fields in lines if fields[2] in {"cgroup", "cgroup2"}]
    # Several controllers may be one hierarchy under two names.
    return list({(path.stat().st_dev): path for path in mounted if path.is_dir()}.values())
