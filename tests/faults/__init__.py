"""An API server as bad days make it: a proxy in front of the real one that does what a test tells it to.

    with FaultProxy(cluster.kubeconfig, directory) as proxy:
        with running(cluster, namespace, directory, kubeconfig=proxy.kubeconfig) as operator:
            with proxy.during(Rule(refuse(503), methods={"PUT"}, path=r"/status$")) as (armed,):
                ...
            assert armed.hits

Why our own, on the aiohttp that is here anyway: what is to go wrong are things of this protocol (the status write of
one registry, a watch in the middle of a line, a list older than the last one). toxiproxy and its like know bytes only;
mitmproxy knows HTTP, and would bring forty pinned packages and a program of its own for these few hundred lines.
"""

from tests.faults.picture import Picture
from tests.faults.proxy import FaultProxy
from tests.faults.rules import (
    Armed,
    Fault,
    Rule,
    Seen,
    behind,
    black_hole,
    cut,
    end,
    expire,
    garbage,
    hold,
    late,
    refuse,
    reset,
    stall,
)

__all__ = [
    "Armed",
    "Fault",
    "FaultProxy",
    "Picture",
    "Rule",
    "Seen",
    "behind",
    "black_hole",
    "cut",
    "end",
    "expire",
    "garbage",
    "hold",
    "late",
    "refuse",
    "reset",
    "stall",
]
