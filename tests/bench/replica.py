"""A replica that serves and does not decide: the same program without kopf and without reconcile.

    python -m tests.bench.replica run …

What `configregistry serve` is to be. It shares nothing with the one that decides but the API server.
"""

from __future__ import annotations

import asyncio
import sys
from unittest.mock import patch

from configregistry.cli.main import run
from configregistry.handlers.thread import KopfThread
from configregistry.reconcile import Controller


async def _never(_: Controller) -> None:
    await asyncio.Event().wait()


def main() -> int:
    with patch.object(Controller, "work", _never), patch.object(KopfThread, "start"):
        return run()


if __name__ == "__main__":
    sys.exit(main())
