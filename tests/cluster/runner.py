"""Start, watch and end the components of one cluster.

What runs is known from the pid files, so a second process (`down`) knows as
much as the one that started them. Ports are given, not picked, here: a
component that is started again answers where it did before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .api import Api
from .components import ADMIN, ETCD, Component, Layout
from .errors import ClusterError, PortTakenError
from .leftovers import end_recorded
from .process import Process, read_identity, spawn
from .waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_READY_WITHIN = 120.0  # seconds; the machine may be busy with all the other workers
_TAIL_BYTES = 4096
_PORT_TAKEN = b"address already in use"


class Runner:
    """The processes of one cluster."""

    def __init__(
        self,
        layout: Layout,
        binaries: Mapping[str, Path],
        *,
        components: Sequence[Component],
        environment: Mapping[str, str],
        detached: bool,
    ) -> None:
        """Take over what the pid files say is running."""
        self._layout = layout
        self._binaries = binaries
        self._given = environment
        self._detached = detached
        self._components = {each.name: each for each in components if each.name in binaries}
        self._processes: dict[str, Process] = {}
        for name in self._components:
            if identity := read_identity(layout.pid_file(name)):
                self._processes[name] = Process(identity)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the components that this cluster has, in the order of their start."""
        return tuple(self._components)

    def is_alive(self, name: str) -> bool:
        """Tell whether the component's process runs."""
        self._component(name)
        process = self._processes.get(name)
        return process is not None and process.alive()

    def is_ready(self, name: str) -> bool:
        """Tell whether the component runs and says that it is well."""
        component = self._component(name)
        if not self.is_alive(name):
            return False
        return component.ready(self._layout) if component.ready else self.api(name).says_ok(component.readiness)

    def start(self, name: str) -> None:
        """Start a component unless it runs, and await that it is ready."""
        component = self._component(name)
        log = self._layout.log(name)
        began_at = log.stat().st_size if log.exists() else 0
        if not self.is_alive(name):
            self._processes[name] = spawn(
                [str(self._binaries[name]), *component.arguments(self._layout)],
                log=log,
                pid_file=self._layout.pid_file(name),
                directory=self._layout.directory,
                environment=self._environment(),
                detached=self._detached,
            )

        def ready_or_dead() -> bool:
            return self.is_ready(name) or not self.is_alive(name)

        try:
            wait_for(ready_or_dead, f"{name} to be ready", timeout=_READY_WITHIN)
        except ClusterError as error:
            message = f"{error}\n{self.tail(name)}"
            raise ClusterError(message) from None
        if not self.is_alive(name):
            message = f"{name} ended instead of becoming ready\n{self.tail(name)}"
            taken = _PORT_TAKEN in _read_from(log, began_at)
            raise PortTakenError(message) if taken else ClusterError(message)

    def end(self, name: str, *, grace: float) -> None:
        """End a component if it runs: politely within the grace period, then at once."""
        self._component(name)
        process = self._processes.pop(name, None)
        if process is None and (identity := read_identity(self._layout.pid_file(name))):
            process = Process(identity)  # a start that was interrupted half-way
        if process is not None:
            process.end(grace=grace)
        self._layout.pid_file(name).unlink(missing_ok=True)

    def end_all(self) -> None:
        """Kill everything; its data is about to be thrown away."""
        for name in reversed(self.names):
            self.end(name, grace=0)
        # Another version of this package may have started more than we know of.
        end_recorded(self._layout.run)

    def api(self, name: str) -> Api:
        """Return the component's own server, for requests of an administrator."""
        self._component(name)
        client = ETCD if name == ETCD else ADMIN.name
        pki = self._layout.pki
        port = self._layout.ports[name]
        return Api(port, pki / "ca.crt", pki / f"{client}.crt", pki / f"{client}.key")

    def tail(self, name: str) -> str:
        """Return the end of a component's log, for an error message."""
        log = self._layout.log(name)
        size = log.stat().st_size if log.exists() else 0
        text = _read_from(log, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        return f"the end of {log}:\n{text}"

    def _component(self, name: str) -> Component:
        try:
            return self._components[name]
        except KeyError:
            message = f"this cluster has no {name}, only {', '.join(self._components)}"
            raise ClusterError(message) from None

    def _environment(self) -> dict[str, str]:
        # Next to nothing of the user's: no KUBECONFIG, no proxies, no ETCD_*
        # (each flag of etcd has a variable too), no home directory.
        home = str(self._layout.directory)
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, **self._given}


def _read_from(log: Path, offset: int) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
