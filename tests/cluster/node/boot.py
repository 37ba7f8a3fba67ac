"""What is done from inside of a node's namespaces: start its cluster unless it runs, load image archives.

python -m tests.cluster.node.boot [ARCHIVE...]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.cluster.artifacts import keep
from tests.cluster.errors import ClusterError

from .cluster import NodeCluster
from .places import inside_a_node


def main(arguments: list[str]) -> int:
    """Do it and let it run."""
    parser = argparse.ArgumentParser(prog="boot")
    parser.add_argument("archives", nargs="*", type=Path)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args(arguments)
    # A cluster that is half made is cleaned up on SIGTERM as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        node = NodeCluster.here() or _start()
        if asked.keep:
            keep(node, asked.keep)
            node.keep_logs(asked.keep)
        for archive in asked.archives:
            began = time.monotonic()
            node.load_image(archive)
            _say(f"loaded {archive} in {time.monotonic() - began:.1f} s")
    except ClusterError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


def _start() -> NodeCluster:
    began = time.monotonic()
    node = NodeCluster(inside_a_node(), detached=True)
    node.start()
    _say(f"a node of our own is ready after {time.monotonic() - began:.1f} s")
    return node


def _interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
