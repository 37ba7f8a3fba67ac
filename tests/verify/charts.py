"""The CRDs chart, made from `crds/`: the same texts as templates, with what Helm is to know of them.

It exists so that a CRD is written in one place. It must never change what a CRD says.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = Path("crds")
TEMPLATES: Final = Path("charts/configregistry-crds/templates")
_BRACES: Final = "{{"
_METADATA: Final = "\nmetadata:\n"
_HEAD: Final = "# Generated from {source} by `make verify WRITE=1`: edit that one.\n"
_TOLD: Final = """\
  annotations:
    # `helm uninstall` leaves it, and with it every object.
    helm.sh/resource-policy: keep
  labels:
    app.kubernetes.io/name: configregistry
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/part-of: configregistry
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
"""


class UnusableError(Exception):
    """A CRD that cannot be a template as it is; the message says why."""


def charts_crds(root: Path = ROOT) -> dict[str, str]:
    """The chart's templates as they should be: path in the repository -> text."""
    found = {}
    for source in sorted((root / SOURCES).glob("*.yaml")):
        name = (SOURCES / source.name).as_posix()
        found[(TEMPLATES / source.name).as_posix()] = template(name, source.read_text(encoding="utf-8"))
    return found


def template(name: str, text: str) -> str:
    """One CRD as a template."""
    if _BRACES in text:
        raise UnusableError(f"{name}: '{_BRACES}': expected none, since Helm would take it for its own")
    before, metadata, after = text.partition(_METADATA)
    if not metadata or _METADATA in after:
        raise UnusableError(f"{name}: expected one line `metadata:`, with labels and annotations of nobody")
    return f"{_HEAD.format(source=name)}{before}{metadata}{_TOLD}{after}"


def check_charts(root: Path = ROOT, *, write: bool) -> list[str]:
    """What of the chart is not up to date, as differences; nothing of it is left when `write`."""
    wanted = charts_crds(root)
    there = {path.relative_to(root).as_posix() for path in (root / TEMPLATES).glob("*.yaml")}
    told = []
    for path in sorted(wanted.keys() | there):
        file, text = root / path, wanted.get(path, "")
        present = file.read_text(encoding="utf-8") if file.exists() else ""
        if present == text:
            continue
        if write and text:
            file.write_text(text, encoding="utf-8")
        elif write:
            file.unlink()  # of a CRD that is no more
        lines = difflib.unified_diff(
            present.splitlines(keepends=True), text.splitlines(keepends=True), path, f"{path} (generated)"
        )
        told.append("".join(lines))
    return told
