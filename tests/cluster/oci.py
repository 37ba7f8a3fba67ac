"""Write an image as an OCI archive, from files that are there: for static programs, without any builder.

The archive is the same for the same files, byte by byte. `ctr images import` and `kind load image-archive` take it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI: Final = "application/vnd.oci.image"
_EPOCH: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Image:
    """One layer of programs, and what of it is started."""

    name: str
    files: Mapping[str, Path] = field(default_factory=dict)
    """From the path inside (`/client`) to the file that is put there, executable by all."""
    entrypoint: Sequence[str] = ()
    user: str = "65532:65532"


def write_archive(target: Path, image: Image) -> None:
    """Write it; the file is complete or absent."""
    layer = _layer(image.files)
    digest = _digest(layer)
    config = _encoded(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": _EPOCH,
            "config": {"Entrypoint": list(image.entrypoint), "User": image.user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
            "history": [{"created": _EPOCH, "created_by": "tests/cluster/oci.py"}],
        }
    )
    manifest = _encoded(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(f"{_OCI}.config.v1+json", config),
            "layers": [_descriptor(f"{_OCI}.layer.v1.tar", layer)],
        }
    )
    named = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name.partition(":")[2]}
    index = _encoded(
        {
            "schemaVersion": 2,
            "manifests": [{**_descriptor(f"{_OCI}.manifest.v1+json", manifest), "annotations": named}],
        }
    )
    draft = target.with_name(f".{target.name}")
    with tarfile.open(draft, "w") as archive:
        _add(archive, "oci-layout", _encoded({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for blob in (manifest, config, layer):
            _add(archive, f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)
    draft.replace(target)


def _layer(files: Mapping[str, Path]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for inside, source in sorted(files.items()):
            _add(archive, inside.lstrip("/"), source.read_bytes(), mode=0o755)
    return written.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)  # its time and owner are zero
    member.size = len(content)
    member.mode = mode
    archive.addfile(member, io.BytesIO(content))


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _encoded(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
