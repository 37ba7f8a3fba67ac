"""What a node needs besides Kubernetes: containerd, runc, the CNI plugins, iptables, conntrack, ip.

PATH's first, else Debian's packages, unpacked into the user's cache: nothing is installed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tests.cluster.errors import ClusterError
from tests.servers.debian import NoPackageError, Program, find_program


class _Wanted(NamedTuple):
    inside: str
    packages: tuple[str, ...]
    names: tuple[str, ...] = ()
    """What lies beside it and is wanted too."""


_IPTABLES: Final = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
_IPTABLES_PACKAGES: Final = (
    "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0",
    "libnftnl11",
)  # fmt: skip
_WANTED: Final = {
    "containerd": _Wanted("/usr/bin/containerd", ("containerd",), ("ctr", "containerd-shim-runc-v2")),
    # Not libseccomp: runc starts itself once more without this environment. Every system with apt has it.
    "runc": _Wanted("/usr/sbin/runc", ("runc",)),
    "iptables": _Wanted("/usr/sbin/xtables-nft-multi", _IPTABLES_PACKAGES),
    "conntrack": _Wanted("/usr/sbin/conntrack", ("conntrack", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0")),
}
_IP: Final = ("iproute2", "libbpf1", "libelf1", "libmnl0", "libxtables12")
_CNI_USUAL: Final = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
_CNI: Final = ("bridge", "host-local", "loopback", "portmap")


@dataclass(frozen=True)
class Programs:
    """Where they are, by the name by which each is called, and what they need in their environment."""

    paths: dict[str, Path]
    cni: Path
    environment: dict[str, str]

    def link(self, directory: Path) -> dict[str, str]:
        """Make a directory with a link for each; return an environment in which they find each other."""
        directory.mkdir()
        for name, path in self.paths.items():
            (directory / name).symlink_to(path)
        # The administrator's directories too: a user's PATH need not have them.
        searched = os.pathsep.join([str(directory), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        return {**self.environment, "PATH": searched}


def find_programs() -> Programs:
    """Find them all; get what is missing. Raises `ClusterError`."""
    paths: dict[str, Path] = {}
    libraries: list[str] = []
    environment: dict[str, str] = {}
    try:
        for name, wanted in _WANTED.items():
            found = find_program(name, wanted.inside, wanted.packages)
            if library := found.environment.get("LD_LIBRARY_PATH"):
                libraries += library.split(os.pathsep)
            for each in _IPTABLES if name == "iptables" else (name, *wanted.names):
                beside = found.path.with_name(each)
                paths[each] = beside if beside.exists() and name != "iptables" else found.path
            if name == "iptables" and found.environment:
                root = found.path.parents[2]
                environment["XTABLES_LIBDIR"] = str(next(iter((root / "usr" / "lib").glob("*-linux-gnu*/xtables"))))
        cni = _find_cni()
    except NoPackageError as error:
        raise _missing(error) from None
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(dict.fromkeys(libraries))
    return Programs(paths, cni, environment)


def find_ip() -> Program:
    """Find the one that namespaces need before anything runs in them. Raises `ClusterError`."""
    try:
        return find_program("ip", "/usr/sbin/ip", _IP)
    except NoPackageError as error:
        raise _missing(error) from None


def _missing(error: NoPackageError) -> ClusterError:
    return ClusterError(
        f"a node needs more programs: {error}. Put them on PATH, or choose CLUSTER=kind or CLUSTER=external"
    )


def _find_cni() -> Path:
    for usual in map(Path, _CNI_USUAL):
        if all(shutil.which(name, path=str(usual)) for name in _CNI):
            return usual
    return find_program("host-local", "/usr/lib/cni/host-local", ("containernetworking-plugins",)).path.parent
