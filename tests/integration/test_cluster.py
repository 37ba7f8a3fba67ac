"""The test cluster itself: what every other suite relies on, and what it must never do."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster, ClusterError, ExternalCluster, KubeCluster, wait_for
from tests.cluster.binaries import find_binaries
from tests.cluster.build import MODULE, cache_directory
from tests.cluster.components import API_SERVER, CONTROLLER_MANAGER, ETCD
from tests.cluster.leftovers import PREFIX, sweep
from tests.cluster.ports import pick_ports
from tests.cluster.process import Identity, identify, read_identity
from tests.cluster.standing import REPOSITORY

# One worker for all of them: they start several clusters, which is enough for two cores.
pytestmark = [
    pytest.mark.xdist_group("test-cluster"),
    pytest.mark.skipif(os.environ.get("CLUSTER") == "external", reason="about our own cluster"),
]


def command(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.cluster", f"--directory={directory}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def identities(state: Path) -> dict[str, Identity]:
    found = {path.stem: read_identity(path) for path in (state / "run").glob("*.json")}
    return {name: identity for name, identity in found.items() if identity}


def config_map(name: str, **metadata: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


def refused(cluster: KubeCluster, kubeconfig: Path, *args: str) -> bool:
    answer = cluster.kubectl(*args, kubeconfig=kubeconfig, check=False)
    assert answer.returncode == 0 or "forbidden" in answer.stderr.lower(), answer.stderr
    return answer.returncode != 0


@pytest.fixture
def stranger() -> Iterator[Identity]:
    """A process that is none of ours."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = identify(process.pid)
        assert identity
        yield identity
        process.kill()


# The standing cluster


def test_up_and_down_and_again(tmp_path: Path) -> None:
    directory = tmp_path / "standing"
    assert command(directory, "status").returncode == 1
    try:
        up = command(directory, "up")
        assert up.returncode == 0, up.stderr
        running = identities(directory / "state")
        assert set(running) == {ETCD, API_SERVER, CONTROLLER_MANAGER}
        assert all(each.alive() for each in running.values())
        assert stat.S_IMODE((directory / "kubeconfig").stat().st_mode) == 0o600
        assert command(directory, "status").returncode == 0
        asked = command(directory, "kubectl", "get", "namespace", "default", "-o", "name")
        assert asked.stdout == "namespace/default\n"
        link = [str(directory / "bin" / "kubectl"), f"--kubeconfig={directory / 'kubeconfig'}", "get", "--raw=/readyz"]
        assert subprocess.run(link, capture_output=True, check=True).stdout == b"ok"

        again = command(directory, "up")
        assert again.returncode == 0
        assert "already running" in again.stdout
        assert identities(directory / "state") == running
    finally:
        down = command(directory, "down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert not any(each.alive() for each in running.values())
    assert not (directory / "kubeconfig").exists()
    down = command(directory, "down")
    assert (down.returncode, down.stdout) == (0, "not running\n")


def test_up_cleans_away_what_a_crash_left(tmp_path: Path) -> None:
    directory = tmp_path / "standing"
    try:
        assert command(directory, "up").returncode == 0
        before = identities(directory / "state")
        # The machine did not crash as a whole: something still runs, on the old ports.
        before[API_SERVER].send(signal.SIGKILL)
        before[CONTROLLER_MANAGER].send(signal.SIGKILL)
        up = command(directory, "up")
        assert up.returncode == 0, up.stderr
        assert "starting afresh" in up.stderr
        assert not before[ETCD].alive()
        assert command(directory, "status").returncode == 0
    finally:
        command(directory, "down")


@pytest.mark.parametrize("recycled", [True, False], ids=["recycled pid", "our process"])
def test_down_ends_a_process_only_if_it_is_ours(tmp_path: Path, stranger: Identity, *, recycled: bool) -> None:
    state = tmp_path / "state"
    (state / "run").mkdir(parents=True)
    (state / "cluster.json").write_text(json.dumps({"ports": {ETCD: 1}, "binaries": {ETCD: "/nowhere"}}))
    started = "1" if recycled else stranger.started
    Identity(stranger.pid, started, stranger.scope).write(state / "run" / f"{ETCD}.json")
    assert command(tmp_path, "down").stdout == "stopped\n"
    assert stranger.alive() == recycled


# A cluster of a test run


def test_it_is_the_pinned_kubernetes(own_cluster: Cluster) -> None:
    if os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("it is whatever was brought along")
    version = json.loads(own_cluster.kubectl("get", "--raw=/version").stdout)
    assert f"\tk8s.io/kubernetes {version['gitVersion']}\n" in (MODULE / "go.mod").read_text()


def test_two_side_by_side_share_nothing(cluster: KubeCluster, namespace: str) -> None:
    with Cluster() as other:
        assert other.server != cluster.server
        assert namespace not in other.kubectl("get", "namespaces", "-o", "name").stdout
        # Nor do credentials of one open the other.
        swapped = other.kubectl(
            f"--server={cluster.server}", "--insecure-skip-tls-verify", "--certificate-authority=", "get", "nodes",
            check=False,
        )  # fmt: skip
        assert "Unauthorized" in swapped.stderr or "logged in" in swapped.stderr
        directory = other.directory
    assert not directory.exists()
    assert cluster.kubectl("get", "namespace", namespace).returncode == 0


@pytest.mark.parametrize("how", ["stop_component", "kill_component"])
def test_an_api_server_returns_with_its_data_to_its_port(own_cluster: Cluster, namespace: str, how: str) -> None:
    own_cluster.kubectl("create", "configmap", "kept", f"-n={namespace}", "--from-literal=a=1")
    server = own_cluster.server
    getattr(own_cluster, how)(API_SERVER)
    try:
        asked = own_cluster.kubectl("get", "configmap", "kept", f"-n={namespace}", check=False)
        assert "refused" in asked.stderr
    finally:
        own_cluster.start_component(API_SERVER)
    assert own_cluster.server == server
    kept = own_cluster.kubectl("get", "configmap", "kept", f"-n={namespace}", "-o=jsonpath={.data.a}")
    assert kept.stdout == "1"


def test_etcd_killed_and_restarted_keeps_what_was_written(own_cluster: Cluster, namespace: str) -> None:
    own_cluster.kubectl("create", "configmap", "kept", f"-n={namespace}")
    own_cluster.kill_component(ETCD)
    own_cluster.start_component(ETCD)
    wait_for(
        lambda: own_cluster.kubectl("get", "configmap", "kept", f"-n={namespace}", check=False).returncode == 0,
        "the API server to find its etcd again",
    )


def test_what_an_object_owned_goes_with_it(cluster: KubeCluster, namespace: str) -> None:
    if not cluster.has(CONTROLLER_MANAGER):
        pytest.skip("needs a controller manager")
    there = f"-n={namespace}"
    cluster.kubectl("create", "configmap", "owner", there)
    uid = cluster.kubectl("get", "configmap", "owner", there, "-o=jsonpath={.metadata.uid}").stdout
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = config_map("owned", ownerReferences=[reference])
    cluster.kubectl("create", there, "-f=-", input=json.dumps(owned))
    cluster.kubectl("delete", "configmap", "owner", there, "--cascade=background")
    wait_for(
        lambda: "owned" not in cluster.kubectl("get", "configmaps", there, "-o=name").stdout,
        "the garbage collector",
    )


def test_the_garbage_collector_knows_an_installed_crd_at_once(
    own_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    if not own_cluster.has(CONTROLLER_MANAGER):
        pytest.skip("needs a controller manager")
    schema = {"openAPIV3Schema": {"type": "object"}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "owners.cluster.test"},
        "spec": {
            "group": "cluster.test",
            "scope": "Namespaced",
            "names": {"plural": "owners", "singular": "owner", "kind": "Owner"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    (tmp_path / "owners.yaml").write_text(json.dumps(definition))
    own_cluster.install_crds(tmp_path)
    there = f"-n={namespace}"
    owner = {"apiVersion": "cluster.test/v1", "kind": "Owner", "metadata": {"name": "a"}}
    own_cluster.kubectl("create", there, "-f=-", input=json.dumps(owner))
    uid = own_cluster.kubectl("get", "owner", "a", there, "-o=jsonpath={.metadata.uid}").stdout
    reference = {"apiVersion": "cluster.test/v1", "kind": "Owner", "name": "a", "uid": uid}
    owned = config_map("owned", ownerReferences=[reference])
    own_cluster.kubectl("create", there, "-f=-", input=json.dumps(owned))
    own_cluster.kubectl("delete", "owner", "a", there)
    wait_for(
        lambda: "owned" not in own_cluster.kubectl("get", "configmaps", there, "-o=name").stdout,
        "the garbage collector",
        timeout=10,
    )


def test_a_user_may_do_only_what_was_granted(cluster: KubeCluster, namespace: str) -> None:
    user = cluster.user_kubeconfig("alice", ["team:blue"])
    assert stat.S_IMODE(user.stat().st_mode) == 0o600
    asked = ("get", "configmaps", f"-n={namespace}")
    assert refused(cluster, user, *asked)
    binding = ("create", "rolebinding", "readers", f"-n={namespace}", "--clusterrole=view")
    cluster.kubectl(*binding, "--group=team:blue")
    wait_for(lambda: not refused(cluster, user, *asked), "the role binding to count")
    assert refused(cluster, user, "create", "configmap", "mine", f"-n={namespace}")
    assert refused(cluster, user, "get", "configmaps", "-n=default")
    assert cluster.user_kubeconfig("alice", ["team:blue"]) == user
    assert cluster.user_kubeconfig("alice", ["team:red"]) != user


def test_a_service_account_may_do_only_what_was_granted(cluster: KubeCluster, namespace: str) -> None:
    cluster.kubectl("create", "serviceaccount", "reader", f"-n={namespace}")
    account = cluster.service_account_kubeconfig(namespace, "reader")
    who = cluster.kubectl("auth", "whoami", "-o=jsonpath={.status.userInfo.username}", kubeconfig=account)
    assert who.stdout == f"system:serviceaccount:{namespace}:reader"
    assert refused(cluster, account, "get", "configmaps", f"-n={namespace}")


def test_users_do_not_get_past_the_api_server(own_cluster: Cluster) -> None:
    user = json.loads(own_cluster.user_kubeconfig("mallory").read_text())
    assert user["users"][0]["user"]
    etcd = json.loads((own_cluster.directory / "cluster.json").read_text())["ports"][ETCD]
    direct = own_cluster.kubectl(
        f"--server=https://127.0.0.1:{etcd}", "get", "--raw=/version",
        kubeconfig=own_cluster.user_kubeconfig("mallory"), check=False,
    )  # fmt: skip
    assert direct.returncode != 0
    # Who is faster: the alert that says why, or the connection's end.
    said = ("bad certificate", "certificate required", "broken pipe", "connection reset")
    assert any(each in direct.stderr for each in said), direct.stderr


# Nothing outlives, nothing is left


def test_nothing_outlives_a_killed_test_process(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from tests.cluster import Cluster\n"
        "cluster = Cluster()\n"
        "cluster.start()\n"
        "print(cluster.directory, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        directory = Path(process.stdout.readline().strip())
        running = identities(directory)
        assert len(running) == 3
        assert all(each.alive() for each in running.values())
        process.kill()
    wait_for(lambda: not any(each.alive() for each in running.values()), "the kernel to end them")


def test_the_directory_of_a_dead_owner_is_swept_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: Identity
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = Identity(stranger.pid, "1", stranger.scope)
    elsewhere = Identity(stranger.pid, "1", "another pid namespace")
    for name, owner in {"dead": dead, "alive": stranger, "elsewhere": elsewhere}.items():
        (tmp_path / f"{PREFIX}{name}").mkdir()
        owner.write(tmp_path / f"{PREFIX}{name}" / "owner.json")
    (tmp_path / f"{PREFIX}unowned").mkdir()
    sweep()
    assert {path.name.removeprefix(PREFIX) for path in tmp_path.iterdir()} == {"alive", "elsewhere", "unowned"}


def test_a_component_outlives_the_thread_that_restarted_it(own_cluster: Cluster) -> None:
    thread = threading.Thread(target=own_cluster.restart_component, args=[CONTROLLER_MANAGER])
    thread.start()
    thread.join(timeout=60)
    # The kernel kills at the thread's end, so by the time that a whole new
    # process has run it would have happened.
    own_cluster.kubectl("get", "--raw=/readyz")
    assert own_cluster.is_healthy()


# The environment


def test_the_users_kubernetes_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_directory().parents[1]
    poison = tmp_path / "home" / ".kube"
    poison.mkdir(parents=True)
    (poison / "config").write_text("{[ not YAML")
    # kubectl passes over a broken kuberc; this one makes each namespace a mere rehearsal.
    rehearsal = {"command": "create namespace", "options": [{"name": "dry-run", "default": "server"}]}
    preference = {"apiVersion": "kubectl.config.k8s.io/v1beta1", "kind": "Preference", "defaults": [rehearsal]}
    (poison / "kuberc").write_text(json.dumps(preference))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(poison / "config"))
    with Cluster() as cluster:
        namespace = cluster.create_namespace()
        cluster.user_kubeconfig("alice")
        cluster.service_account_kubeconfig(namespace, "default")
    assert {path.name for path in poison.iterdir()} == {"config", "kuberc"}


def test_an_external_cluster_is_used_and_left_alone(
    own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER", "external")
    monkeypatch.setenv("KUBECONFIG", str(own_cluster.kubeconfig))
    running = identities(own_cluster.directory)
    with ExternalCluster() as external:
        assert external.server == own_cluster.server
        namespace = external.create_namespace()
        user = external.user_kubeconfig("bob", ["team:green"])
        assert refused(external, user, "get", "configmaps", f"-n={namespace}")
        for forbidden in (external.stop_component, external.kill_component, external.start_component):
            with pytest.raises(ClusterError, match="not ours"):
                forbidden(API_SERVER)
        external.delete_namespace(namespace)
        copy = external.kubeconfig
    assert not copy.exists()

    assert command(tmp_path, "up").returncode == 0
    assert own_cluster.server in (tmp_path / "kubeconfig").read_text()
    assert command(tmp_path, "status").returncode == 0
    assert command(tmp_path, "down").stdout == "stopped\n"
    assert not (tmp_path / "kubeconfig").exists()

    assert own_cluster.is_healthy()
    assert identities(own_cluster.directory) == running


def test_external_needs_a_kubeconfig_named_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(ClusterError, match="needs KUBECONFIG"):
        ExternalCluster()


# Brought binaries, taken ports, broken components


def bring(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names:
        (directory / name).symlink_to(find_binaries()[name])
    return directory


def test_brought_binaries_are_used_without_a_controller_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = bring(tmp_path / "assets", ETCD, API_SERVER, "kubectl")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    with Cluster() as cluster:
        assert not cluster.has(CONTROLLER_MANAGER)
        assert cluster.kubectl_path == assets / "kubectl"
        cluster.kubectl("create", "configmap", "a", f"-n={cluster.create_namespace()}")
        log = cluster.logs(API_SERVER)
        assert log.stat().st_size
    (assets / ETCD).unlink()
    with pytest.raises(ClusterError, match="has no executable etcd"):
        Cluster().start()


def test_a_taken_port_is_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        tries = [[taken.getsockname()[1], *pick_ports(2)], pick_ports(3)]
        monkeypatch.setattr("tests.cluster.cluster.pick_ports", lambda _count: tries.pop(0))
        with Cluster() as cluster:
            assert cluster.is_healthy()
    assert tries == []


def test_a_component_that_fails_shows_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = bring(tmp_path / "assets", ETCD, "kubectl")
    (assets / API_SERVER).write_text("#!/bin/sh\necho the reason of it all\nexit 3\n")
    (assets / API_SERVER).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ClusterError, match="the reason of it all"):
        Cluster().start()
    assert not list(tmp_path.glob(f"{PREFIX}*"))
