"""What keeps the interpreter from holding up reads: when the garbage collector runs, who gets the interpreter's lock.

Why: a full pass of the collector looks at every object there is, which for 10,000 registries takes
half a second in which nobody is answered; and nearly all of these objects stay. So the collector is
off while a process fills its memory, and what is there then is never looked at again
(`gc.freeze`). Values here are immutable and refer to no object that refers to them, so what is
replaced later is freed by its reference count all the same.

A thread that computes (kopf's, the text of metrics) gives the lock away after a switch interval; Python's
5 ms would be the latency of each read meanwhile.

It must never be imported by what is not a program: these are settings of the whole process.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

THRESHOLDS: Final = (5_000, 5, 100)
"""Young passes of some 5,000 objects (0.3 ms), middle ones of 25,000 (2 ms), and rarely a full one."""
SWITCH_INTERVAL: Final = 0.0005


def starting() -> None:
    """The process begins to fill its memory."""
    gc.disable()
    gc.set_threshold(*THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL)


def filled() -> None:
    """What is in memory now is there to stay. Garbage first: what is frozen in a cycle is kept for ever (ADR 3)."""
    gc.collect()
    gc.freeze()
    gc.enable()
