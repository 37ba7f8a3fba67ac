"""The first process of a node's namespaces: makes them a machine, then lets every orphan end in peace.

Run as a script (`python -I -S inside.py DIRECTORY BRIDGE ADDRESS/LENGTH SERVICES DNS`) by `unshare`. When it
ends, however that comes, the kernel ends all processes in its namespaces, and with the last one the mounts and the
interfaces are gone. It says that it is done by the file `ready`.

This must stay a file of its own without imports from this package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

# What the kubelet would write for the whole machine, already as it wants it.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def main() -> None:
    """Prepare the namespaces, then wait for children until it is killed."""
    directory, (bridge, address, services, dns) = Path(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mounts(directory)
    _resolver(directory, dns)
    _network(bridge, address, services)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    (directory / "ready").touch()
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _mounts(directory: Path) -> None:
    # Pods get mounts that appear later; nothing of it goes back to the machine, which is another peer group.
    _run("mount", "--make-rshared", "/")
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "node-run", "/run")
    for name in ("lock", "netns"):
        Path("/run", name).mkdir()
    private = directory / "private"
    private.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "node-private", str(private))
    for name in ("upper", "work", "sysctl"):
        (private / name).mkdir()
    # Some paths below it are the kubelet's and cannot be changed; all else there stays as it is.
    layers = f"lowerdir=/var/lib,upperdir={private / 'upper'},workdir={private / 'work'}"
    _run("mount", "-t", "overlay", "-o", layers, "node-lib", "/var/lib")
    for name, target in (("log", Path("/var/log")), ("kubelet", Path("/var/lib/kubelet"))):
        (directory / name).mkdir()
        target.mkdir(exist_ok=True)
        _run("mount", "--bind", str(directory / name), str(target))
    for number, (name, value) in enumerate(_SYSCTLS.items()):
        if Path("/proc/sys", name).exists():
            stand_in = private / "sysctl" / str(number)
            stand_in.write_text(f"{value}\n")
            _run("mount", "--bind", str(stand_in), f"/proc/sys/{name}")


def _resolver(directory: Path, dns: str) -> None:
    """Let processes in here ask the cluster's own names; the machine's resolver cannot be reached anyway."""
    resolver = directory / "resolv.conf"
    resolver.write_text(f"nameserver {dns}\noptions timeout:1 attempts:1\n")
    target = Path("/etc/resolv.conf").resolve()
    if target.is_relative_to("/run"):  # which is empty now, and private
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    if target.exists():
        _run("mount", "--bind", str(resolver), str(target))


def _network(bridge: str, address: str, services: str) -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", bridge, "type", "bridge")
    _run("ip", "address", "add", address, "dev", bridge)
    _run("ip", "link", "set", bridge, "up")
    # Nowhere leads out. Services need a route all the same: without any, a process is told that the network is
    # unreachable before kube-proxy's rules are asked.
    _run("ip", "route", "add", services, "dev", bridge)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    with contextlib.suppress(FileNotFoundError):  # else a pod's way through a Service to its neighbour is not seen
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1\n")


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
