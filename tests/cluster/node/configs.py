"""The configuration files of what runs pods: containerd, CNI, kubelet, kube-proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.cluster.components import Layout
from tests.cluster.ports import LOOPBACK

from .components import CONTAINERD, KUBELET, PROXY, config, kubeconfig
from .images import PAUSE_IMAGE
from .places import CONTAINERD_SOCKET, DNS, DOMAIN, NODE, PODS
from .programs import Programs

_CONTAINERD: Final = """\
version = 2
root = "{root}"
state = "{state}"
oom_score = 0
# opt makes a directory in /opt; the others look for file systems and devices that are not ours.
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE nobody may lower a score, and runc would fail at it.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_programs}"
    conf_dir = "{cni}"
"""


def write_configs(at: Layout, programs: Programs, cgroup: str) -> None:
    """Write them all."""
    cni = at.directory / "cni"
    cni.mkdir()
    _write(cni / "10-bridge.conflist", _cni(at))
    config(at, CONTAINERD).write_text(
        _CONTAINERD.format(
            root=at.directory / "containerd",
            state=CONTAINERD_SOCKET.parent,
            socket=CONTAINERD_SOCKET,
            pause=PAUSE_IMAGE,
            cni_programs=programs.cni,
            cni=cni,
        )
    )
    # What a pod asks that is not of the cluster is asked nobody: no way leads out.
    resolver = at.directory / "resolv.conf"
    resolver.write_text("")
    _write(config(at, KUBELET), _kubelet(at, cgroup, resolver))
    _write(config(at, PROXY), _proxy(at))


def _cni(at: Layout) -> dict[str, object]:
    ranges = [[{"subnet": PODS}]]
    bridge = {
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": True,
        # A pod that is its own Service's endpoint reaches itself.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(at.directory / "addresses"),
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def _kubelet(at: Layout, cgroup: str, resolver: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "port": at.ports[KUBELET],
        "healthzPort": 0,  # its own server says so too, to an administrator
        "tlsCertFile": f"{at.pki / KUBELET}.crt",
        "tlsPrivateKeyFile": f"{at.pki / KUBELET}.key",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(at.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDNS": [DNS],
        "clusterDomain": DOMAIN,
        "resolvConf": str(resolver),
        "volumePluginDir": str(at.directory / "volume-plugins"),
        # A disk that is nearly full of other things is no reason to evict pods.
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "oomScoreAdj": 0,
        "serializeImagePulls": False,
    }


def _proxy(at: Layout) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": NODE,
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(kubeconfig(at, PROXY))},
        "healthzBindAddress": f"{LOOPBACK}:{at.ports[PROXY]}",
        # The table is the whole machine's, and may only be read in here.
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
        # Endpoints that change are in force soon: by default it gathers changes for a second.
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
