"""Fixtures that several suites share; each server is started once per test process and ended with it."""

from __future__ import annotations

from tests.cluster.fixtures import cluster, namespace, own_cluster
from tests.servers.fixtures import app, prometheus

__all__ = ["app", "cluster", "namespace", "own_cluster", "prometheus"]
