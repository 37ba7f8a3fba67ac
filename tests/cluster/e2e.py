"""`python -m tests.cluster e2e`: the end-to-end suite from nothing, on whichever cluster can be had.

CLUSTER says which: `own` (a node of our own; needs root), `kind` (needs Docker and kind), `external` (needs
KUBECONFIG, and images that its nodes can pull). Without it: our own where that can be, else kind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster import kind
from tests.cluster.errors import ClusterError
from tests.cluster.external import CHOICE, EXTERNAL, KIND, OWN
from tests.cluster.node.sandbox import require_privileges
from tests.cluster.node.standing import entered, keep, passing, prepare
from tests.cluster.standing import REPOSITORY

ARTIFACTS: Final = REPOSITORY / "artifacts" / "e2e"
IMAGE: Final = "CONFIGREGISTRY_IMAGE"
"""The image of the product on an external cluster; elsewhere it is built and loaded under its usual name."""

_SUITE: Final = ("-m", "pytest", "-m", "node", "tests/e2e")


def run(arguments: Sequence[str]) -> int:
    """Run it; return pytest's exit status."""
    chosen = choose()
    _say(f"end-to-end tests on {_NAMES[chosen]}")
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    suite = [sys.executable, *_SUITE, *arguments]
    status = _RUNS[chosen](suite)
    if status and ARTIFACTS.exists():
        _say(f"kept of what failed: {ARTIFACTS}")
    return status


def choose() -> str:
    """Tell which cluster it will be. Raises `ClusterError` with what can be done about it."""
    chosen = os.environ.get(CHOICE, "")
    if chosen in {OWN, EXTERNAL}:
        return chosen
    if chosen == KIND:
        if why := kind.usable():
            message = f"{CHOICE}={KIND}, but {why}"
            raise ClusterError(message)
        return KIND
    if chosen:
        message = f"{CHOICE}={chosen} is not understood: {OWN}, {KIND} or {EXTERNAL}"
        raise ClusterError(message)
    try:
        require_privileges()
    except ClusterError as error:
        if why := kind.usable():
            message = f"{error} (kind cannot be used: {why})"
            raise ClusterError(message) from None
        return KIND
    return OWN


def build_image(directory: Path) -> Path:
    """Build the product's image; return its archive."""
    archive = directory / "configregistry.tar"
    began = time.monotonic()
    if subprocess.run(
        [sys.executable, "-m", "image", "--output", str(archive)], cwd=REPOSITORY, check=False
    ).returncode:
        message = "the image could not be built; what was said is above"
        raise ClusterError(message)
    _say(f"the image is built after {time.monotonic() - began:.0f} s")
    return archive


def _own(suite: list[str]) -> int:
    # All that needs the network, before there is none.
    prepare()
    _helm()
    with tempfile.TemporaryDirectory() as directory, passing([build_image(Path(directory))]) as sandbox:
        status = 1
        try:
            status = subprocess.run(entered(sandbox, suite), cwd=REPOSITORY, check=False).returncode
        finally:
            # From here, not from the tests: a test that hangs takes pytest with it.
            if status:
                keep(sandbox, ARTIFACTS / "cluster")
        return status


def _kind(suite: list[str]) -> int:
    _helm()
    with tempfile.TemporaryDirectory() as name:
        archive = build_image(Path(name))
        with kind.started(Path(name)) as given:
            environment = {**os.environ, **given}
            loaded = ["kind", "load", "image-archive", str(archive), f"--name={environment[kind.VARIABLE]}"]
            subprocess.run(loaded, check=True)
            return subprocess.run(suite, cwd=REPOSITORY, env=environment, check=False).returncode


def _external(suite: list[str]) -> int:
    if not os.environ.get(IMAGE):
        message = f"{CHOICE}={EXTERNAL} needs {IMAGE}: an image of this checkout that the cluster's nodes can pull"
        raise ClusterError(message)
    return subprocess.run(suite, cwd=REPOSITORY, check=False).returncode


def _helm() -> None:
    from tests.helm import ensure_helm  # noqa: PLC0415 - only this needs it, and it needs this package

    ensure_helm()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_NAMES: Final = {OWN: "a node of our own", KIND: "a cluster of kind's", EXTERNAL: "the cluster of KUBECONFIG"}
_RUNS: Final = {OWN: _own, KIND: _kind, EXTERNAL: _external}
