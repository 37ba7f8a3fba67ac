"""Wires the program and runs it: what is followed, who decides, who serves. Only here reconcile and serve meet.

`configregistry run` decides and serves in one process; `controller` and `serve` do one of the two.
One event loop for everything of ours; kopf has a thread and loop of its own, and hands over names only.

| module | tells |
| --- | --- |
| program | the start, the end, and what a signal does |
| following | the objects of the API server that are held in memory, and how readiness waits for them |
| deciding | changes -> queue -> gather -> decide -> act |
| serving | the same objects -> state -> responses |
| followed | one resource in some namespaces |
| pauses | what keeps the interpreter from holding up reads |
"""

from configregistry.app.program import main

__all__ = ["main"]
