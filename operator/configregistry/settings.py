"""What a person may set, in one frozen value; the command line fills it from flags and the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Settings of one process. Times are in seconds."""

    decides: bool = True
    serves: bool = True
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
    leader_election: bool = True
    """Only who holds the Lease decides; without it there must be one process alone."""
    lease: str = ""
    """`namespace/name`; empty: `configregistry` in the pod's namespace, or in the first that is looked after."""
    workers: int = 8
    """Registries that are reconciled at the same time."""
    auth: str = "none"
    """Who may read: `none` asks nobody, `kubernetes` asks the API server."""
    auth_grace: float = 86_400.0
    """Who was known is let in for so long while the API server does not answer, at most until the token's end."""
    tls_certificate: str | None = None
    tls_key: str | None = None
    """PEM files; None: HTTP in clear text."""
    hot_keys: bool = False
    replicas: tuple[str, ...] = ()
    """URLs of replicas that a controller asks for their consumers."""
    replica_service: str = ""
    """`namespace/name` of the Service that they are behind."""
    replica_token_file: str | None = None
    replica_ca_file: str | None = None
    unused_after: float = 90 * 86_400.0
    """A registry that nobody has read for so long is told of as unused."""
    webhook_port: int = 0
    """Of the admission webhook; 0: none."""
    webhook_host: str = "127.0.0.1"
    webhook_certificate: str | None = None
    webhook_key: str | None = None
    """PEM files that somebody else keeps (cert-manager); None: a certificate of its own, in `webhook_secret`."""
    webhook_secret: str = ""
    """`namespace/name` of the Secret that the replicas share their certificate by."""
    webhook_configuration: str = ""
    """Name of the ValidatingWebhookConfiguration whose caBundle is kept."""
    webhook_service: str = ""
    """`namespace/name` of the Service by which API servers call."""
    consistency_interval: float = 300.0
    """Memory is compared with the API server so often; 0: never."""
    stale_after: float = 5.0
    """Without a watch on the API server for so long, answers say how stale they are."""
    in_cluster: bool = field(default_factory=lambda: "KUBERNETES_SERVICE_HOST" in os.environ)
    """Inside a cluster checks may not address loopback or link-local addresses."""
