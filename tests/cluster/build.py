"""Build the Go programs of a test cluster, once per version of their sources.

The result is kept in the user's cache directory under the hash of everything
that goes into it, so an unchanged checkout never builds twice and two
checkouts of different versions do not disturb each other. A directory in the
cache is complete or absent: it is filled elsewhere and renamed into place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError
from .locks import exclusive
from .progress import BuildProgress

MODULE = Path(__file__).with_name("kube")
_PINNED = re.compile(r"^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)$", re.MULTILINE)
_VERSION = "k8s.io/component-base/version."


@dataclass(frozen=True)
class Program:
    """Something to build: the binary's name, its package, the names it answers to."""

    name: str
    package: str
    description: str
    applets: tuple[str, ...] = ()
    module: str = MODULE.name
    """The folder beside this file that holds its go.mod."""


# The applets are named here and in the table of kube/main.go, or kube/node/main.go.
KUBE = Program(
    "kube",
    ".",
    "Kubernetes (once, some minutes)",
    ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"),
)
# Built apart: a cluster of prebuilt binaries needs certificates too, and this
# one takes seconds.
CERTS = Program("certs", "./certs", "the certificate maker")
# Built apart: a cluster without pods does not wait for these.
NODE = Program(
    "node", "./node", "a node's Kubernetes (once, a minute or more)", ("kube-scheduler", "kubelet", "kube-proxy")
)
COREDNS = Program("coredns", ".", "CoreDNS (once, a minute)", module="coredns")
PAUSE = Program("pause", "./pause", "what holds a pod open", module="pods")
CLIENT = Program("client", "./client", "what tests run in pods", module="pods")


def ensure_built(program: Program) -> Path:
    """Return the directory with the program and a link per applet; build it if need be."""
    cache = cache_directory()
    target = cache / _digest(program)
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)

    def say_busy() -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"another process builds Kubernetes already; waiting for it\n")

    with exclusive(cache / f"{program.name}.lock", when_busy=say_busy):
        if target.is_dir():
            return target
        # What a killed build left behind: the lock says that none is running.
        for leftover in cache.glob(f"tmp-{program.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"tmp-{program.name}-", dir=cache))
        try:
            _compile(program, draft)
            for applet in program.applets:
                (draft / applet).symlink_to(program.name)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def cache_directory() -> Path:
    """Return where the builds of this user are kept."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the XDG specification.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"  # noqa: PTH117
    return base / "configregistry" / "kube"


def _compile(program: Program, draft: Path) -> None:
    command = ["go", "build", "-v", *_flags(program), "-o", str(draft / program.name), program.package]
    with (
        BuildProgress(program.description) as progress,
        subprocess.Popen(
            command,
            cwd=_module(program),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as go,
    ):
        try:
            progress.read(go.stdout or ())
            status = go.wait()
        except BaseException:
            # go's compilers are processes of their own, in its group; it has
            # not been waited for, so the group cannot be a stranger's.
            os.killpg(go.pid, signal.SIGKILL)
            raise
    if status != 0:
        said = "\n".join(progress.tail)
        message = f"the build of {program.name} failed: {' '.join(command)}\n{said}"
        raise ClusterError(message)


def _module(program: Program) -> Path:
    return MODULE.with_name(program.module)


def _stamps() -> list[str]:
    pinned = _PINNED.search((MODULE / "go.mod").read_text())
    if pinned is None:
        message = f"{MODULE / 'go.mod'} names no version of k8s.io/kubernetes"
        raise ClusterError(message)
    version, major, minor = pinned.groups()
    # Released binaries carry their version from the linker too; without it the
    # API server calls itself v0.0.0 and clients refuse it.
    numbers = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return [f"-X {_VERSION}{name}={value}" for name, value in numbers.items()]


def _flags(program: Program) -> list[str]:
    stamps = _stamps() if program.module == MODULE.name else []
    return [
        "-mod=readonly",  # the pinned versions, or an error
        "-buildvcs=false",  # a commit elsewhere in this repository changes nothing
        "-trimpath",
        f"-ldflags={' '.join(['-s', '-w', *stamps])}",
    ]


def _environment() -> dict[str, str]:
    # Static, so that the binary also runs in an image that has no C library;
    # GOWORK off, since a workspace around the checkout would unpin the versions.
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}


def _digest(program: Program) -> str:
    digest = hashlib.sha256()
    for part in (_toolchain(), *_flags(program), *program.applets):
        digest.update(part.encode() + b"\0")
    module = _module(program)
    pins = [path for path in (module / "go.mod", module / "go.sum") if path.exists()]  # no go.sum: nothing is used
    for source in (*sorted((module / program.package).glob("*.go")), *pins):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return f"{program.name}-{digest.hexdigest()[:20]}"


def _toolchain() -> str:
    try:
        asked = subprocess.run(
            ["go", "env", "GOVERSION", "GOOS", "GOARCH"],
            cwd=MODULE,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        message = (
            "Go is missing: the test cluster is built from source with it. Install Go, or set "
            "KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver, or use a cluster "
            "that you have: CLUSTER=external with KUBECONFIG"
        )
        raise ClusterError(message) from None
    if asked.returncode != 0:
        message = f"`go env` failed in {MODULE}: {asked.stderr.strip()}"
        raise ClusterError(message)
    return asked.stdout
