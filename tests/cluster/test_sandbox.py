"""The namespaces of a node leave nothing, however they end. Without Kubernetes, which makes them no different."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import ClusterError, wait_for
from tests.cluster.node import cgroups, sandbox
from tests.cluster.node.places import BRIDGE
from tests.cluster.node.sandbox import Sandbox, require_privileges
from tests.cluster.process import identify
from tests.cluster.standing import REPOSITORY

# Does what a node does: a mount that stays, a file in the machine's folders, an interface, rules of its own kernel
# settings, a cgroup with a process in it, a process that nobody waits for.
_LIVES = r"""
set -e
mkdir /run/mine /var/lib/mine /var/log/mine
mount -t tmpfs mine /run/mine
ip link add mine0 type bridge
echo 2 > /proc/sys/vm/overcommit_memory
for root in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/self/mounts); do
    mkdir -p "$root/$1/kubepods/pod1"
done
setsid sleep 1000 &
echo $! > "$2"
"""
_OPENS = """
import sys, time
from pathlib import Path
from tests.cluster.node.sandbox import Sandbox
made = Sandbox()
made.start()
print(made.directory, flush=True)
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def _privileges() -> None:
    try:
        require_privileges()
    except ClusterError as error:
        pytest.skip(str(error))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary directories of this test alone, so that it sweeps nobody else's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


@pytest.fixture
def machine() -> Iterator[None]:
    """The machine is afterwards as it was before."""
    before = _seen()
    yield
    wait_for(lambda: _seen() == before, "the machine to be as before", timeout=30)


def _seen() -> dict[str, object]:
    return {
        "interfaces": sorted(os.listdir("/sys/class/net")),  # noqa: PTH208 - names
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if "node-" in line],
        "overcommit": Path("/proc/sys/vm/overcommit_memory").read_text(),
        "folders": [str(path) for root in ("/run", "/var/lib", "/var/log") for path in Path(root).glob("mine")],
    }


def _live(made: Sandbox, note: Path) -> int:
    """Leave traces; return the pid, in there, of a process that stays."""
    subprocess.run(made.command(["sh", "-c", _LIVES, "sh", made.cgroup, str(note)]), check=True)
    return int(note.read_text())


def _processes(made: Sandbox) -> int:
    counted = subprocess.run(made.command(["sh", "-c", "ls -d /proc/[0-9]*"]), capture_output=True, check=True)
    return len(counted.stdout.split())


def test_it_ends_with_all_that_runs_in_it(machine: None, elsewhere: Path) -> None:
    with Sandbox() as made:
        directory, cgroup = made.directory, made.cgroup
        _live(made, elsewhere / "pid")
        assert _processes(made) >= 2
        first = json.loads((directory / "pids" / "first.json").read_text())["pid"]
        inside = subprocess.run(made.command(["ip", "-br", "link"]), capture_output=True, text=True, check=True).stdout
        assert BRIDGE in inside
        assert cgroups.exists(cgroup)
    assert identify(first) is None
    assert not directory.exists()
    assert not cgroups.exists(cgroup)


def test_whoever_made_it_is_killed(machine: None, elsewhere: Path) -> None:
    command = [sys.executable, "-c", _OPENS]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as maker:
        try:
            assert maker.stdout is not None
            directory = Path(maker.stdout.readline().strip())
            left = Sandbox.open(directory)
            assert left is not None
            assert left.alive()
            cgroup = left.cgroup
            _live(left, elsewhere / "pid")
        finally:
            maker.kill()
    wait_for(lambda: not left.alive(), "the end of its processes")
    assert cgroups.exists(cgroup), "what the kernel does not remove"
    sandbox.sweep()
    assert not directory.exists()
    assert not cgroups.exists(cgroup)


def test_a_start_that_fails_leaves_nothing(machine: None, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cluster.node.sandbox.ADDRESS", "not an address")
    made = Sandbox()
    with pytest.raises(ClusterError, match="cannot be made: ip address add not an address"):
        made.start()
    assert list(elsewhere.glob("*")) == []


def test_without_rights_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"needs root, the program unshare.*sudo.*CLUSTER=kind.*CLUSTER=external"):
        Sandbox().start()
