"""The CRDs of others whose objects the chart can make, out of those others' own sources (`crds/go.mod` pins them).

Downloaded as Go modules, whose sums are checked; nothing of them is compiled.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

from .building import HelmError

_MODULE: Final = Path(__file__).with_name("crds")
_FILES: Final = {
    "github.com/cert-manager/cert-manager": (
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}


def foreign_crds() -> list[Path]:
    """Files with the CRDs of cert-manager and of the Prometheus operator that the chart makes objects of."""
    command = ["go", "mod", "download", "-json", *_FILES]
    told = subprocess.run(command, cwd=_MODULE, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise HelmError(f"{' '.join(command)}: {told.stdout[-2000:]}{told.stderr[-2000:]}")
    found, decoder, rest = [], json.JSONDecoder(), told.stdout.strip()
    while rest:
        module, end = decoder.raw_decode(rest)
        found += [Path(module["Dir"]) / file for file in _FILES[module["Path"]]]
        rest = rest[end:].lstrip()
    return found
