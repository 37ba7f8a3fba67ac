"""A Kubernetes with a node: pods really run, without Docker and without a registry.

    python -m tests.cluster node run -- python -m pytest tests/e2e

Everything is in namespaces of its own (network, mounts, processes), whose first process
takes all others with it. See tests/cluster/README.md.
"""

from .cluster import NodeCluster
from .places import inside_a_node

__all__ = ["NodeCluster", "inside_a_node"]
