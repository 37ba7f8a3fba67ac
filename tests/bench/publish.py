"""Apply changes at a fixed rate, to registries in turn, until standard input ends.

    python -m tests.bench.publish KUBECONFIG REGISTRIES PER_SECOND

In a process of its own, so that it shares no interpreter with who measures reads meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import time

from tests.bench.timeline import apply

from configregistry.kube.client import connect


async def publish(kubeconfig: str, registries: int, rate: float) -> None:
    """Apply one after the other; a late one is made up for."""
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    begin, due, edit = time.monotonic(), 0, int(time.time() * 1000)
    under_way = set[asyncio.Task[bytes]]()
    async with await connect(kubeconfig) as api:
        while not ended.done():
            task = asyncio.create_task(apply(api, due % registries, edit + due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += 1
            await asyncio.sleep(max(0.0, begin + due / rate - time.monotonic()))
        await asyncio.gather(*under_way)


if __name__ == "__main__":
    asyncio.run(publish(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
