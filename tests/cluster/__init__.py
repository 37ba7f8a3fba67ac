"""A real Kubernetes for tests and for trying things out, without containers.

    with Cluster() as cluster:
        cluster.kubectl("get", "namespaces")

Everything is built from pinned sources on the machine, listens on loopback
only, and ends with the process that started it. See README.md.
"""

from .base import KubeCluster
from .cluster import Cluster
from .errors import ClusterError
from .external import ExternalCluster
from .waiting import wait_for
from .withpods import WithPods

__all__ = ["Cluster", "ClusterError", "ExternalCluster", "KubeCluster", "WithPods", "wait_for"]
