"""The command line of the test cluster: python -m tests.cluster COMMAND."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from . import e2e
from .binaries import find_binaries
from .build import CERTS, ensure_built
from .errors import ClusterError
from .node import command as node_command
from .standing import DEFAULT_DIRECTORY, StandingCluster


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    asked = _parser().parse_args(arguments)
    standing = StandingCluster(asked.directory)
    # A build or a half-made cluster is cleaned up on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(asked, standing)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _run(asked: argparse.Namespace, standing: StandingCluster) -> int:
    status = 0
    match asked.command:
        case "build":
            ensure_built(CERTS)
            for name, path in find_binaries().items():
                _print(f"{name}: {path}")
        case "up":
            _print(standing.up())
        case "down":
            _print(standing.down())
        case "status":
            usable, description = standing.status()
            _print(description)
            status = 0 if usable else 1
        case "e2e":
            status = e2e.run(node_command.after_dashes(asked.arguments))
        case "node":
            status, said = node_command.run(asked)
            _print(said)
        case _:
            standing.exec_kubectl(asked.arguments)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description="A real Kubernetes on this machine, for tests and for trying things out.",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=DEFAULT_DIRECTORY,
        help="where the cluster lives (default: .cluster in the repository)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start it, unless it is running")
    commands.add_parser("down", help="end it and throw its data away")
    commands.add_parser("status", help="describe it; exit status 1 unless it can be used")
    commands.add_parser("build", help="only build the programs, or find them built")
    suite = commands.add_parser("e2e", help="the end-to-end tests on a cluster with a node, started for them")
    suite.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- PYTEST-ARGUMENTS")
    node = commands.add_parser("node", help="a cluster with a node on which pods run; needs root")
    node_command.add_to(node)
    kubectl = commands.add_parser("kubectl", help="run kubectl against it", add_help=False)
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _print(message: str) -> None:
    if message:
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
