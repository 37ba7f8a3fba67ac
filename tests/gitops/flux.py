"""Apply an object as Flux's kustomize-controller does, by its library with its options.

    flux_apply(cluster.kubeconfig, registry) == "configured"
    flux_apply(cluster.kubeconfig, registry, wait=60)      # as `wait: true` does

Beside a server-side apply with force that is: nothing is written where a dry run shows no difference, and fields that
a manager called kubectl... owns are taken over first, so that what Git does not have goes away.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .building import ensure_judge

MANAGER: Final = "kustomize-controller"
_WITHIN: Final = 60.0


class FluxError(Exception):
    """Applying failed, or what was applied did not become healthy; the message is Flux's."""


def flux_apply(kubeconfig: Path, wanted: Mapping[str, Any], *, wait: float = 0) -> str:
    """Give what came of it: created, configured, unchanged."""
    command = [str(ensure_judge()), "apply", f"-kubeconfig={kubeconfig}", f"-wait={wait:g}s"]
    ended = subprocess.run(
        command, input=json.dumps(wanted), capture_output=True, text=True, check=False, timeout=_WITHIN + wait
    )
    if ended.returncode != 0:
        raise FluxError(ended.stderr.strip())
    return ended.stdout.strip()
