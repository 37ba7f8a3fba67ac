"""The addresses and the names of a node: constants, since it has a network of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NODE: Final = "node-1"

BRIDGE: Final = "node0"
ADDRESS: Final = "192.168.77.1"
"""The node's own; the API server may not advertise a loopback address, and this is on a bridge for nothing else."""
PREFIX_LENGTH: Final = 24

PODS: Final = "10.244.0.0/16"
SERVICES: Final = "10.0.0.0/16"
"""components.py's --service-cluster-ip-range."""
DNS: Final = "10.0.0.10"
DOMAIN: Final = "cluster.local"

CONTAINERD_SOCKET: Final = Path("/run/containerd/containerd.sock")
"""In a /run of its own."""

ENVIRONMENT: Final = "environment.json"
"""In the directory of its cluster: what its programs have in their environment."""

VARIABLE: Final = "CONFIGREGISTRY_NODE"
"""Set for what runs inside of a node: the directory of its cluster."""


def inside_a_node() -> Path | None:
    """Give the directory of the node's cluster to a process that runs inside; None to others."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else None
