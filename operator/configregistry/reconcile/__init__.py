"""From a queued name to an accepted status: gather -> decide -> act, one registry at a time.

`gather` does all the reading, `rollout.decide` all the deciding, `act` all the writing; `reconciler`
calls the three in this order and nothing else does. `controller` wires them. Beside them `collector` asks all
serve replicas for their consumers (`replicas` says how), for checks and for pruning.
"""

from __future__ import annotations

from configregistry.reconcile.audit import Ledger
from configregistry.reconcile.cluster import VersionIndex
from configregistry.reconcile.collector import Collector
from configregistry.reconcile.controller import Controller, Watched, policies_of
from configregistry.reconcile.floors import Floors
from configregistry.reconcile.links import Named
from configregistry.reconcile.replicas import InProcess, OverHttp, Replicas, at_addresses, of_service
from configregistry.reconcile.wanted import EXAMINERS

__all__ = [
    "EXAMINERS",
    "Collector",
    "Controller",
    "Floors",
    "InProcess",
    "Ledger",
    "Named",
    "OverHttp",
    "Replicas",
    "VersionIndex",
    "Watched",
    "at_addresses",
    "of_service",
    "policies_of",
]
