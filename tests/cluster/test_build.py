"""The cache of built programs; tried with the certificate maker, which builds in seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import ClusterError, wait_for
from tests.cluster.build import CERTS, KUBE, MODULE, cache_directory, ensure_built
from tests.cluster.process import identify
from tests.cluster.standing import REPOSITORY

BUILD = "from tests.cluster.build import *; print(ensure_built(CERTS))"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a `go` that writes down how it was called."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs Go")
    log = tmp_path / "calls"
    wrapper = tmp_path / "bin" / "go"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> "{log}"\nexec "{go}" "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    # Go's own cache stays where it was, or each test compiles the standard library.
    asked = subprocess.run([go, "env", "GOCACHE"], capture_output=True, text=True, check=True)
    monkeypatch.setenv("GOCACHE", asked.stdout.strip())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return log


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the Go module, to be changed."""
    copy = tmp_path / "kube"
    shutil.copytree(MODULE, copy)
    monkeypatch.setattr("tests.cluster.build.MODULE", copy)
    return copy


def builds(calls: Path) -> int:
    return calls.read_text().split().count("build")


def test_an_unchanged_program_is_built_once(calls: Path) -> None:
    first = ensure_built(CERTS)
    assert ensure_built(CERTS) == first
    assert builds(calls) == 1
    assert os.access(first / CERTS.name, os.X_OK)


def test_a_changed_program_is_built_anew(calls: Path, module: Path) -> None:
    first = ensure_built(CERTS)
    with (module / "certs" / "main.go").open("a") as source:
        source.write("// changed\n")
    assert ensure_built(CERTS) != first
    assert builds(calls) == 2


def test_two_at_once_build_once(calls: Path) -> None:
    start = [sys.executable, "-c", BUILD]
    both = [subprocess.Popen(start, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    assert builds(calls) == 1


def test_a_failed_build_says_why_and_leaves_nothing(calls: Path, module: Path) -> None:
    (module / "certs" / "main.go").write_text("package main\n\nfunc main() { unknown() }\n")
    with pytest.raises(ClusterError, match="undefined: unknown"):
        ensure_built(CERTS)
    assert builds(calls) == 1
    assert [path.name for path in cache_directory().iterdir()] == ["certs.lock"]


def test_what_a_killed_build_left_is_removed(calls: Path) -> None:
    leftover = cache_directory() / "tmp-certs-killed"
    leftover.mkdir(parents=True)
    ensure_built(CERTS)
    assert not leftover.exists()
    assert builds(calls) == 1


def test_an_interrupted_build_ends_its_compilers(tmp_path: Path, calls: Path) -> None:
    wrapper, noted = tmp_path / "bin" / "go", tmp_path / "compiler"
    # A build with a compiler that never ends.
    endless = f'[ "$1" != build ] || {{ sleep 600 & echo $! > "{noted}.draft"; mv "{noted}.draft" "{noted}"; wait; }}'
    wrapper.write_text(wrapper.read_text().replace("exec", f"{endless}\nexec"))
    with subprocess.Popen([sys.executable, "-m", "tests.cluster", "build"], cwd=REPOSITORY) as process:
        wait_for(noted.exists, "the compiler")
        compiler = identify(int(noted.read_text()))
        assert compiler
        process.terminate()
    assert process.returncode == 130
    wait_for(lambda: not compiler.alive(), "the end of the compiler", timeout=5)
    assert builds(calls) == 1
    assert [path.name for path in cache_directory().iterdir()] == ["certs.lock"]


def test_without_go_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"Go is missing.*KUBEBUILDER_ASSETS.*CLUSTER=external"):
        ensure_built(KUBE)


def test_progress_is_plain_lines_away_from_a_terminal(calls: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stderr
    assert "\x1b" not in shown
    assert "packages compiled" in shown
    assert builds(calls) == 1
