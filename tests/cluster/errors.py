"""The one error that this package raises on purpose.

Its message is all that a person sees, so it must say what was tried, what
came of it and where the logs are.
"""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster cannot do what was asked of it."""


class PortTakenError(ClusterError):
    """A port that was free when it was picked has been taken by a stranger."""
