"""The pytest fixtures; the root conftest.py imports what it wants from here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .app import AppServer
from .prometheus import Prometheus


@pytest.fixture(scope="session")
def prometheus() -> Iterator[Prometheus]:
    """Yield a running Prometheus, one for each worker of pytest-xdist. Not to be stopped."""
    with Prometheus() as running:
        yield running


@pytest.fixture
def app() -> Iterator[AppServer]:
    """Yield an app of this test."""
    with AppServer() as running:
        yield running
