"""Pick free loopback ports.

A port can be taken between being picked and being used, and the components
cannot be handed an open socket, so whoever starts them has to try again with
other ports (PortTakenError). Two things make that rare: the ports are random,
and outside of the range from which the kernel gives ports to outgoing
connections, so that an API server that is down for a moment finds its port
free when it returns.
"""

from __future__ import annotations

import random
import socket

from .errors import ClusterError

_FIRST = 12000
_LAST = 29999
_ATTEMPTS = 200
# Not from the global generator: tests seed that one, and all the workers of a
# run would then pick the same ports in the same order.
_random = random.SystemRandom()

LOOPBACK = "127.0.0.1"


def pick_ports(count: int) -> list[int]:
    """Return as many different ports as asked for, each of them free just now."""
    picked: list[int] = []
    for _ in range(_ATTEMPTS):
        if len(picked) == count:
            return picked
        port = _random.randint(_FIRST, _LAST)
        if port not in picked and is_free(port):
            picked.append(port)
    message = f"no {count} free ports between {_FIRST} and {_LAST} on {LOOPBACK}"
    raise ClusterError(message)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not make a port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
