"""What a person may set, in one frozen value; the command line fills it from flags and the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Settings of one process. Times are in seconds."""

    kubeconfig: str | None = None
    """Path of a kubeconfig; None: KUBECONFIG, ~/.kube/config, or the pod's own account."""
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    """The namespaces to look after; empty: all."""
    host: str = "127.0.0.1"
    port: int = 8080
    probe_port: int = 8081
    log_format: str = "auto"
    log_level: str = "info"
    env: str = ""
    cluster: str = ""
    """`env` and `cluster` are labels of metrics, nothing else."""
    registry_metrics: bool = True
    """Series for each registry; off where there are too many."""
    workers: int = 8
    """Registries that are reconciled at the same time."""
    stale_after: float = 5.0
    """Without a watch on the API server for so long, answers say how stale they are."""
    in_cluster: bool = field(default_factory=lambda: "KUBERNETES_SERVICE_HOST" in os.environ)
    """Inside a cluster checks may not address loopback or link-local addresses."""
