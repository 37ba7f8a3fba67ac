"""Fixtures of the suites on a real API server."""

from __future__ import annotations

from tests.integration.operators import client, crd, operator, place

__all__ = ["client", "crd", "operator", "place"]
