"""Build `judge/`, the program that holds the GitOps tools' own code, once per version of its sources.

It is their code, pinned by go.mod (the versions that one release of Flux's kustomize-controller is made of), so that
a test proves what the tools do and not what we believe of them. The result is kept in the user's cache directory
under the hash of everything that goes into it; what is there is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.cluster.locks import exclusive
from tests.servers.debian import cache_directory

SOURCES: Final = Path(__file__).with_name("judge")
_FLAGS: Final = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w"]


def ensure_judge() -> Path:
    """Give the program; build it if need be."""
    digest = hashlib.sha256("\0".join(_FLAGS).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    target = cache_directory("gitops") / f"judge-{digest.hexdigest()[:20]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.with_name("judge.lock"), when_busy=lambda: _say("another process builds it; waiting")):
        if not target.exists():
            _say("building kstatus and Argo CD's Lua (once, about a minute)")
            draft = Path(tempfile.mkdtemp(dir=target.parent))
            try:
                environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
                command = ["go", "build", *_FLAGS, "-o", str(draft / "judge"), "."]
                subprocess.run(command, cwd=SOURCES, env=environment, stdin=subprocess.DEVNULL, check=True)
                (draft / "judge").rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


def _say(text: str) -> None:
    print(f"judges of GitOps tools: {text}", file=sys.stderr, flush=True)
