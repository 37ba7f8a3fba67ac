"""What is asked of kind and Docker, and when. Both are fakes here, which write down how they are called: where
these tests run there is no Docker, and what kind itself does is not ours to test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cluster import ClusterError, e2e, kind


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the fakes write; a call that has FAIL's text in it fails."""
    log = tmp_path / "calls"
    for name in ("kind", "docker"):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f'#!/bin/sh\necho "{name} $*" >> "{log}"\ncase "$*" in "${{FAIL:-none}}"*) exit 1;; esac\n')
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr("tests.cluster.e2e.build_image", lambda directory: directory / "image.tar")
    monkeypatch.setattr("tests.cluster.e2e._helm", lambda: None)
    monkeypatch.setattr("tests.cluster.e2e.ARTIFACTS", tmp_path / "artifacts")
    monkeypatch.setattr("tests.cluster.e2e._SUITE", ("-c", "import os; print(os.environ['KUBECONFIG']); exit(5)"))
    monkeypatch.setenv("CLUSTER", "kind")
    return log


def _verbs(calls: Path) -> list[str]:
    return [" ".join(line.split()[:3]) for line in calls.read_text().splitlines() if line.startswith("kind")]


def test_it_is_made_filled_used_and_deleted(calls: Path) -> None:
    assert e2e.run([]) == 5
    assert _verbs(calls) == ["kind create cluster", "kind load image-archive", "kind delete cluster"]
    names = {word for line in calls.read_text().splitlines() for word in line.split() if word.startswith("--name=")}
    assert len(names) == 1, "the one that was made, and no other"


def test_what_was_half_made_is_deleted(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "create")
    with pytest.raises(ClusterError, match=r"kind create cluster .* ended with 1"):
        e2e.run([])
    assert _verbs(calls)[-1] == "kind delete cluster"


def test_without_docker_it_is_said(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "version")
    with pytest.raises(ClusterError, match="CLUSTER=kind, but Docker does not answer"):
        e2e.choose()
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert kind.usable() == "docker and kind is not on PATH"


def test_another_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER", "minikube")
    with pytest.raises(ClusterError, match="CLUSTER=minikube is not understood: own, kind or external"):
        e2e.choose()


def test_without_a_choice_it_is_what_can_be_had(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise ClusterError("no root")

    monkeypatch.delenv("CLUSTER")
    monkeypatch.setattr("tests.cluster.e2e.require_privileges", lambda: None)
    assert e2e.choose() == "own"
    monkeypatch.setattr("tests.cluster.e2e.require_privileges", refused)
    assert e2e.choose() == "kind"
    monkeypatch.setenv("FAIL", "version")
    with pytest.raises(ClusterError, match=r"no root.*Docker does not answer"):
        e2e.choose()
