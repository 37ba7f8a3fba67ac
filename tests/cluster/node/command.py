"""The commands of `python -m tests.cluster node`."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from .standing import StandingNode, entered, passing, prepare


def add_to(parser: argparse.ArgumentParser) -> None:
    """Describe them to a parser."""
    commands = parser.add_subparsers(dest="node_command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build and get all that it needs")
    commands.add_parser("up", help="start one that stays, unless it is running")
    commands.add_parser("down", help="end it and throw its data away")
    commands.add_parser("status", help="show its node and its pods; exit status 1 unless it can be used")
    load = commands.add_parser("load", help="load image archives (OCI or Docker) into it")
    load.add_argument("archives", nargs="+", type=Path, metavar="FILE")
    kubectl = commands.add_parser("kubectl", help="run kubectl against it", add_help=False)
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    inside = commands.add_parser("exec", help="run a command inside of its namespaces, with KUBECONFIG set")
    inside.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    run = commands.add_parser("run", help="start one, run a command inside, end it with all that is left")
    run.add_argument(
        "--load", action="append", default=[], type=Path, metavar="FILE", help="an image archive; again for more"
    )
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND")


def run(asked: argparse.Namespace) -> tuple[int, str]:
    """Run one; return its exit status and what there is to say."""
    standing = StandingNode(asked.directory)
    match asked.node_command:
        case "build":
            prepare()
            return 0, "all there"
        case "up":
            return 0, standing.up()
        case "down":
            return 0, standing.down()
        case "status":
            usable, description = standing.status()
            return int(not usable), description
        case "load":
            standing.load(asked.archives)
            return 0, "loaded"
        case "run":
            with passing(asked.load) as sandbox:
                return subprocess.run(entered(sandbox, after_dashes(asked.arguments)), check=False).returncode, ""
        case "kubectl":
            command = standing.kubectl(asked.arguments)
        case _:
            command = standing.command(after_dashes(asked.arguments))
    return os.execvp(command[0], command)  # this process becomes the command


def after_dashes(arguments: list[str]) -> list[str]:
    """Return what comes after the two dashes that end the options."""
    return arguments[1:] if arguments[:1] == ["--"] else arguments
