"""Build Helm from its pinned sources, once per version of them.

The result is kept in the user's cache directory under the hash of everything that goes into it; what is there is
complete. HELM names another one, which is then used as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.cluster.locks import exclusive
from tests.servers.debian import cache_directory

MODULE: Final = Path(__file__).with_name("program")
_PACKAGE: Final = "helm.sh/helm/v3/cmd/helm"
_PINNED: Final = re.compile(r"^\s*(helm\.sh/helm/v3|k8s\.io/client-go) v(\d+)\.(\d+)\.(\S+)", re.MULTILINE)


class HelmError(Exception):
    """There is no Helm, or it refused; the message is all that it said."""


def ensure_helm() -> Path:
    """Give the program; build it if need be."""
    if configured := os.environ.get("HELM"):
        if not os.access(configured, os.X_OK):
            raise HelmError(f"HELM={configured}: expected a program that can be run")
        return Path(configured).absolute()
    flags = _flags()
    digest = hashlib.sha256("\0".join(flags).encode())
    for source in sorted(MODULE.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    target = cache_directory("helm") / f"helm-{digest.hexdigest()[:20]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.with_name("helm.lock"), when_busy=lambda: _say("another process builds it; waiting")):
        if not target.exists():
            if shutil.which("go") is None:
                raise HelmError("Go is missing: Helm is built with it. Install Go, or set HELM to a helm that you have")
            _say("building it (once, one to two minutes)")
            draft = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                _build(flags, draft / "helm")
                (draft / "helm").rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


def _build(flags: list[str], program: Path) -> None:
    command = ["go", "build", *flags, "-o", str(program), _PACKAGE]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    built = subprocess.run(
        command, cwd=MODULE, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise HelmError(f"{' '.join(command)}: {built.stderr.strip()[-2000:]}")


def _flags() -> list[str]:
    pinned = {name: numbers for name, *numbers in _PINNED.findall((MODULE / "go.mod").read_text())}
    helm, kubernetes = pinned["helm.sh/helm/v3"], pinned["k8s.io/client-go"]
    # As in Helm's Makefile: without them `helm template` believes that it is asked for Kubernetes 1.20.
    numbers = {"Major": int(kubernetes[0]) + 1, "Minor": int(kubernetes[1])}
    stamps = [
        f"-X helm.sh/helm/v3/{package}.k8sVersion{part}={number}"
        for package in ("pkg/chartutil", "pkg/lint/rules")
        for part, number in numbers.items()
    ]
    version = f"-X helm.sh/helm/v3/internal/version.version=v{'.'.join(helm)}"
    return ["-mod=readonly", "-buildvcs=false", "-trimpath", f"-ldflags={' '.join(['-s', '-w', version, *stamps])}"]


def _say(text: str) -> None:
    print(f"helm for the tests: {text}", file=sys.stderr, flush=True)
