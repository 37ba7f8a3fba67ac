"""Three layers as an archive that containerd, Docker and Podman load: the OCI layout, with Docker's index beside it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from image.layers import Layer
from image.places import COMMAND, USER, Architecture

ENTRYPOINT: Final = (f"/{COMMAND}",)
ENVIRONMENT: Final = {"PATH": "/usr/bin", "LANG": "C.UTF-8"}
LABELS: Final = {
    "org.opencontainers.image.title": "configregistry",
    "org.opencontainers.image.description": "Progressive delivery for configuration, native to Kubernetes",
    "org.opencontainers.image.licenses": "Apache-2.0",
}
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


def labels(version: str, revision: str, epoch: int) -> dict[str, str]:
    """Give the image's labels; an unknown revision is left out."""
    named = {"version": version, "revision": revision, "created": _time(epoch)}
    return {**LABELS, **{f"org.opencontainers.image.{name}": value for name, value in named.items() if value}}


def write_archive(
    file: Path, name: str, architecture: Architecture, layers: Sequence[Layer], about: Mapping[str, str], epoch: int
) -> str:
    """Write the archive; gives the manifest's digest."""
    config = _encoded({
        "architecture": architecture.oci,
        "os": "linux",
        "created": _time(epoch),
        "config": {
            "User": f"{USER}:{USER}",
            "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
            "Entrypoint": list(ENTRYPOINT),
            "WorkingDir": "/",
            "Labels": dict(about),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [
            {"created": _time(epoch), "created_by": f"python -m image: {what}"}
            for what in ("Debian", "dependencies", "configregistry")
        ],
    })  # fmt: skip
    manifest = _encoded({
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **_named(config)},
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": f"sha256:{layer.digest}",
                "size": layer.size,
            }
            for layer in layers
        ],
        "annotations": dict(about),
    })  # fmt: skip
    digest = hashlib.sha256(manifest).hexdigest()
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": _MANIFEST,
                **_named(manifest),
                "platform": {"architecture": architecture.oci, "os": "linux"},
                # containerd takes the first for the name, Podman the second for the tag.
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
        ],
    }
    docker = [
        {"Config": _blob(config), "RepoTags": [name], "Layers": [f"blobs/sha256/{each.digest}" for each in layers]}
    ]
    blobs = {_blob(config): config, _blob(manifest): manifest}
    draft = file.with_name(f".{file.name}.{os.getpid()}")  # others may write it too
    with tarfile.open(draft, "w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in (
            ("oci-layout", _encoded({"imageLayoutVersion": "1.0.0"})),
            ("index.json", _encoded(index)),
            ("manifest.json", _encoded(docker)),
            *sorted(blobs.items()),
        ):
            member = _member(path, len(content))
            archive.addfile(member, io.BytesIO(content))
        for layer in layers:
            with layer.file.open("rb") as content_file:
                archive.addfile(_member(f"blobs/sha256/{layer.digest}", layer.size), content_file)
    draft.replace(file)
    return f"sha256:{digest}"


def _member(path: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size, member.mode = size, 0o644
    return member


def _encoded(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _named(content: bytes) -> dict[str, Any]:
    return {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def _time(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
