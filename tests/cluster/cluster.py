"""A Kubernetes of our own: etcd, API server, controller manager, on loopback.

It never reads the user's kubeconfig and never touches anything outside of its
own directory. Used as a context manager it ends with the test process,
however that ends; detached it stays until somebody opens and stops it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .base import KubeCluster
from .binaries import find_binaries
from .certs import Certificate, make_certificates
from .components import (
    ADMIN,
    API_SERVER,
    CERTIFICATES,
    COMPONENTS,
    CONTROLLER_MANAGER,
    ETCD,
    SERVICE_ACCOUNT_KEYS,
    Component,
    Layout,
)
from .errors import ClusterError, PortTakenError
from .kubeconfig import certificate_user, loopback_cluster, write_kubeconfig
from .leftovers import OWNER_FILE, PREFIX, sweep
from .ports import pick_ports
from .process import own_identity, write_private
from .runner import Runner
from .waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

_STATE = "cluster.json"
_ATTEMPTS = 5
_GRACE = 30.0


class Cluster(KubeCluster):
    """One cluster in one directory; several may run side by side."""

    owned = True

    #: What it is made of, and whose certificates that takes; a cluster with a node has more of both.
    components: ClassVar[tuple[Component, ...]] = COMPONENTS
    certificates: ClassVar[tuple[Certificate, ...]] = CERTIFICATES

    def __init__(self, directory: Path | None = None, *, detached: bool = False) -> None:
        """Prepare a cluster; without a directory, in a temporary one of its own.

        A detached cluster outlives this process.
        """
        self._given = directory.absolute() if directory else None
        self._detached = detached
        self._layout: Layout | None = None
        self._runner: Runner | None = None
        self._binaries: dict[str, Path] = {}

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """Return the cluster that another process started there; None without one."""
        try:
            state = json.loads((directory / _STATE).read_text())
            ports = {str(name): int(port) for name, port in state["ports"].items()}
            binaries = {str(name): Path(path) for name, path in state["binaries"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        cluster = cls(directory, detached=True)
        cluster._binaries = binaries
        cluster._layout = Layout(directory.absolute(), ports)
        cluster._runner = cluster._new_runner()
        return cluster

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start everything and return when the cluster can be used."""
        if self._runner is not None:
            message = "this cluster has been started already"
            raise ClusterError(message)
        self._binaries = self._find_binaries()
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                self._start_once()
            except PortTakenError:
                self.stop()
                if not attempts_left:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def stop(self) -> None:
        """End everything at once and throw its data away; again does nothing."""
        if self._runner is not None:
            self._runner.end_all()
            self._runner = None
        if self._layout is not None:
            shutil.rmtree(self._layout.directory, ignore_errors=True)
            self._layout = None

    def is_healthy(self) -> bool:
        """Tell whether every component runs and is ready."""
        runner = self._runner
        return runner is not None and all(runner.is_ready(name) for name in runner.names)

    def describe(self) -> dict[str, str]:
        """Return the state of each component, for a person."""
        runner = self._running()
        words = {True: "ready", False: "running, not ready"}
        return {name: words[runner.is_ready(name)] if runner.is_alive(name) else "not running" for name in runner.names}

    @property
    def directory(self) -> Path:
        """Return where its data, logs and credentials are."""
        return self._at().directory

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig."""
        return self.directory / "admin.kubeconfig"

    @property
    def kubectl_path(self) -> Path:
        """Return the kubectl that belongs to the binaries."""
        try:
            return self._binaries["kubectl"]
        except KeyError:
            message = "there is no kubectl in KUBEBUILDER_ASSETS, nor in the PATH"
            raise ClusterError(message) from None

    @property
    def cluster_entry(self) -> dict[str, object]:
        """Return a kubeconfig's entry for this cluster."""
        layout = self._at()
        return loopback_cluster(layout.ports[API_SERVER], layout.pki / "ca.crt")

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig for a user who has a client certificate and no rights yet."""
        pki = self._at().pki
        # Names of users may hold what names of files may not.
        digest = hashlib.sha256(json.dumps([user, list(groups)]).encode()).hexdigest()[:16]
        path = self.directory / "users" / f"{digest}.kubeconfig"
        if not path.exists():
            name = f"user-{digest}"
            make_certificates(pki, [Certificate(name, user, tuple(groups))])
            credentials = certificate_user(pki / f"{name}.crt", pki / f"{name}.key")
            write_kubeconfig(path, cluster=self.cluster_entry, user=credentials)
        return path

    def has(self, component: str) -> bool:
        """Tell whether the cluster runs this component (stopped for now or not)."""
        return component in self._running().names

    def stop_component(self, name: str) -> None:
        """End a component as an administrator would, and return when it is gone."""
        self._running().end(name, grace=_GRACE)

    def kill_component(self, name: str) -> None:
        """End a component as a power cut would, and return when it is gone."""
        self._running().end(name, grace=0)

    def start_component(self, name: str) -> None:
        """Start a component with its old data on its old port, and await that it is ready.

        After one that others live on, the controller manager starts afresh
        as well: the longer it was without, the longer it waits before it
        looks again, up to a minute for each kind of object.
        """
        runner = self._running()
        runner.start(name)
        if name in (ETCD, API_SERVER) and self.has(CONTROLLER_MANAGER) and runner.is_alive(CONTROLLER_MANAGER):
            runner.end(CONTROLLER_MANAGER, grace=0)
            runner.start(CONTROLLER_MANAGER)

    def logs(self, name: str) -> Path:
        """Return the log of a component."""
        return self._at().log(name)

    def _start_once(self) -> None:
        if self._given is None:
            sweep()
            directory = Path(tempfile.mkdtemp(prefix=PREFIX))
            own_identity().write(directory / OWNER_FILE)
        else:
            directory = self._given
            try:
                directory.mkdir(mode=0o700, parents=True)
            except FileExistsError:
                message = f"{directory} is there already; a cluster needs a new directory"
                raise ClusterError(message) from None
        served = [each.name for each in self.components if each.name in self._binaries]
        layout = Layout(directory, dict(zip(served, pick_ports(len(served)), strict=True)))
        self._layout = layout
        for each in ("logs", "run"):
            (directory / each).mkdir()
        binaries = {name: str(path) for name, path in self._binaries.items()}
        # Before the first process, so that whoever comes after a crash in
        # between finds what there is to clean up.
        state = {"ports": dict(layout.ports), "binaries": binaries}
        write_private(directory / _STATE, json.dumps(state, indent=2) + "\n")
        make_certificates(layout.pki, self.certificates, key_pairs=[SERVICE_ACCOUNT_KEYS])
        self._write_kubeconfig(self.kubeconfig, ADMIN.name)
        self._write_kubeconfig(layout.controller_manager_kubeconfig, CONTROLLER_MANAGER)
        self._prepare(layout)
        self._runner = self._new_runner()
        for name in self._runner.names:
            self._runner.start(name)
        if self.has(CONTROLLER_MANAGER):
            self._await_default_service_account()

    def _find_binaries(self) -> dict[str, Path]:
        return find_binaries()

    def _prepare(self, layout: Layout) -> None:
        """Write what further components need before the first one starts."""

    def _environment(self) -> Mapping[str, str]:
        """Return what the components' environment has besides next to nothing."""
        return {}

    def _new_runner(self) -> Runner:
        return Runner(
            self._at(),
            self._binaries,
            components=self.components,
            environment=self._environment(),
            detached=self._detached,
        )

    def _write_kubeconfig(self, path: Path, certificate: str) -> None:
        pki = self._at().pki
        user = certificate_user(pki / f"{certificate}.crt", pki / f"{certificate}.key")
        write_kubeconfig(path, cluster=self.cluster_entry, user=user)

    def _await_default_service_account(self) -> None:
        runner = self._running()
        try:
            wait_for(
                lambda: runner.api(API_SERVER).says_ok("/api/v1/namespaces/default/serviceaccounts/default"),
                "the default ServiceAccount",
            )
        except ClusterError as error:
            message = f"{error}\n{runner.tail(CONTROLLER_MANAGER)}"
            raise ClusterError(message) from None

    def _at(self) -> Layout:
        if self._layout is None:
            message = "this cluster is not running"
            raise ClusterError(message)
        return self._layout

    def _running(self) -> Runner:
        if self._runner is None:
            message = "this cluster is not running"
            raise ClusterError(message)
        return self._runner
