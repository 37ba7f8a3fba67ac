"""From a queued name to an accepted status: gather -> decide -> act, one registry at a time.

`gather` does all the reading, `rollout.decide` all the deciding, `act` all the writing; `reconciler`
calls the three in this order and nothing else does. `controller` wires them.
"""

from __future__ import annotations

from configregistry.reconcile.controller import Controller

__all__ = ["Controller"]
