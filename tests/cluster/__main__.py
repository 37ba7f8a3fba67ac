"""The command line of the test cluster: python -m tests.cluster COMMAND."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .binaries import find_binaries
from .build import CERTS, ensure_built
from .errors import ClusterError
from .standing import DEFAULT_DIRECTORY, StandingCluster


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    asked = _parser().parse_args(arguments)
    standing = StandingCluster(asked.directory)
    # A build or a half-made cluster is cleaned up on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if asked.command == "build":
            ensure_built(CERTS)
            for name, path in find_binaries().items():
                _print(f"{name}: {path}")
        elif asked.command == "up":
            _print(standing.up())
        elif asked.command == "down":
            _print(standing.down())
        elif asked.command == "status":
            usable, description = standing.status()
            _print(description)
            return 0 if usable else 1
        else:
            standing.exec_kubectl(asked.arguments)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


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
    kubectl = commands.add_parser("kubectl", help="run kubectl against it", add_help=False)
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _print(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
