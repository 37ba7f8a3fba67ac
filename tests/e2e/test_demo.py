"""The demo as a stranger runs it, without a terminal: it succeeds, it fails when it must, it leaves nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster import ExternalCluster
from tests.cluster.external import external_is_chosen
from tests.cluster.kubeconfig import run_kubectl
from tests.cluster.ports import is_free
from tests.cluster.standing import REPOSITORY, StandingCluster

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

_WITHIN = 180.0
_CONTROL = re.compile(r"[^\n\x20-\x7e\u00a0-\U0010ffff]")
_LIMIT = 90.0


@dataclass(frozen=True)
class Ended:
    """A demo that has ended."""

    code: int
    out: str
    took: float

    @property
    def namespace(self) -> str:
        found = re.search(r"namespace/(demo-[0-9a-f]+) created", self.out)
        assert found, self.out
        return found[1]


@dataclass(frozen=True)
class Ground:
    """A cluster that stands already."""

    environment: dict[str, str]
    kubectl: Path
    kubeconfig: Path
    well: Callable[[], bool]

    def has(self, what: str) -> bool:
        found = run_kubectl(self.kubectl, self.kubeconfig, ["get", what, "--ignore-not-found", "--output=name"])
        return bool(found.stdout.strip())


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    if external_is_chosen():
        with ExternalCluster() as external:
            yield Ground({}, external.kubectl_path, external.kubeconfig, lambda: True)
        return
    directory = tmp_path_factory.mktemp("standing")
    # By its command, as a person has started it: it must not be this process's child.
    command = [sys.executable, "-m", "tests.cluster", "--directory", str(directory)]
    standing = StandingCluster(directory)
    subprocess.run([*command, "up"], cwd=REPOSITORY, check=True)
    try:
        here = {"DEMO_CLUSTER": str(directory)}
        yield Ground(here, standing.kubectl, standing.kubeconfig, lambda: standing.status()[0])
    finally:
        subprocess.run([*command, "down"], cwd=REPOSITORY, check=True)


@contextlib.contextmanager
def demo(log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the demo with its output in a file."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.demo"],
            cwd=REPOSITORY,
            env={**os.environ, "FORCE_COLOR": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait(60)


def run(log: Path, **environment: str) -> Ended:
    """Run the demo to its end."""
    began = time.monotonic()
    with demo(log, **environment) as running:
        code = running.wait(_WITHIN)
    return Ended(code, log.read_text(), time.monotonic() - began)


def test_it_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    ended = run(tmp_path / "out", DEMO_CLUSTER=str(directory))
    assert ended.code == 0, ended.out
    assert "expectations were met" in ended.out
    assert "FAILED" not in ended.out
    assert re.search(
        r"^From the first failed check to the last worker back on stable: 0\.\d+ s$", ended.out, re.MULTILINE
    )
    assert not _CONTROL.findall(ended.out)
    assert ended.took < _LIMIT
    _assert_nothing_left(ended)
    if not external_is_chosen():
        assert StandingCluster(directory).status() == (False, "not running")
        assert not _processes(str(directory))
    assert not (REPOSITORY / "artifacts" / "demo" / ended.namespace).exists()


def test_an_expectation_that_is_not_met_fails_it(tmp_path: Path, ground: Ground) -> None:
    ended = run(tmp_path / "out", DEMO_SABOTAGE="expectation", **ground.environment)
    assert ended.code == 1, ended.out
    failed = [line for line in ended.out.splitlines() if line.startswith("  FAILED")]
    assert any("at 10 % exactly the" in line and "not expected: worker-" in line for line in failed), ended.out
    assert re.search(r"^\d+ of \d+ expectations failed", ended.out, re.MULTILINE)
    # It goes on: the rest of the story does not depend on what was expected.
    assert "ok     the conditions say RolledBack" in ended.out
    _assert_nothing_left(ended)
    assert ground.well(), "a cluster that stood before stands afterwards"
    assert not ground.has(f"namespace/{ended.namespace}")


def test_an_operator_that_dies_fails_it_at_once(tmp_path: Path, ground: Ground) -> None:
    ended = run(tmp_path / "out", DEMO_SABOTAGE="operator", **ground.environment)
    assert ended.code == 1, ended.out
    said = "while waiting for version 2 to be at 50 %: the operator has ended by itself (exit code -9)"
    assert said in ended.out
    assert "the last lines of" in ended.out
    assert not _CONTROL.findall(ended.out)
    _assert_nothing_left(ended)
    assert ground.well()
    assert not ground.has(f"namespace/{ended.namespace}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_it_cleans_up(tmp_path: Path, ground: Ground, number: signal.Signals) -> None:
    log = tmp_path / "out"
    began = time.monotonic()
    with demo(log, **ground.environment) as running:
        while "version 2: 5" not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < began + _WITHIN, log.read_text()
            time.sleep(0.1)
        running.send_signal(number)
        code = running.wait(60)
    ended = Ended(code, log.read_text(), time.monotonic() - began)
    assert ended.code == 128 + number, ended.out
    assert "Traceback" not in ended.out
    _assert_nothing_left(ended)
    assert ground.well()
    assert not ground.has(f"namespace/{ended.namespace}")


def _assert_nothing_left(ended: Ended) -> None:
    assert not _processes(ended.namespace)
    for port in re.findall(r"-port (\d+)", ended.out):
        assert is_free(int(port)), f"port {port} is still in use"


def _processes(word: str) -> list[str]:
    """Command lines of processes that name this word, but for those of the tests themselves."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if word in line and "pytest" not in line:
                    found.append(line)
    return found
