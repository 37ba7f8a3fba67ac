"""Ask the certificate maker (kube/certs) for keys and certificates."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from .build import CERTS, ensure_built
from .errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A certificate to be made: NAME.crt and NAME.key; with hosts also a server's."""

    name: str
    common_name: str
    organizations: Sequence[str] = ()
    hosts: Sequence[str] = field(default=())


def make_certificates(
    directory: Path,
    certificates: Sequence[Certificate] = (),
    *,
    requests: Sequence[Certificate] = (),
    key_pairs: Sequence[str] = (),
) -> None:
    """Write them into the directory, signed by its authority (made if it has none).

    Requests become a key and a NAME.csr for another authority to sign; key
    pairs NAME.key and NAME.pub.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = {
        "directory": str(directory),
        "certificates": [asdict(certificate) for certificate in certificates],
        "requests": [asdict(request) for request in requests],
        "key_pairs": list(key_pairs),
    }
    made = subprocess.run(
        [str(ensure_built(CERTS) / CERTS.name)],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        message = f"cannot make certificates in {directory}: {made.stderr.strip()}"
        raise ClusterError(message)
