"""A replica whose API server is elsewhere: real hydration and HTTP, fed with objects instead of by a watch.

    python -m tests.bench.fed PORT REGISTRIES

Standard input says how many publications a second there shall be, a number a line, until it ends. On two
cores this is the only way to see what a publication costs the readers of a replica: an API server beside
the load has the load wait for it, and that is all that one would measure.
"""

from __future__ import annotations

import asyncio
import sys

from tests.bench.world import manifest, place
from tests.cluster.ports import LOOPBACK
from tests.serve_fakes import World, revision, status_of

from configregistry.app import pauses
from configregistry.serve import App, serve_http


def put(world: World, number: int, version: int) -> None:
    """What the two watches bring when a version is decided on."""
    key, data = place(number), manifest(number, version)["spec"]["data"]
    uid = f"uid-{number}"
    world.record(key, version, revision(uid, data, version - 1))
    world.put(key, uid, status_of(version, version, data))
    if version > 10:
        world.forget(key, version - 10)


async def serve(port: int, registries: int) -> None:
    """Serve and publish until standard input ends."""
    world, loop = World(), asyncio.get_running_loop()
    for number in range(registries):
        put(world, number, 1)
    world.flush()
    server = await serve_http(App(world.service.routes, world.metrics, lambda: 0.0), LOOPBACK, port)
    pauses.filled()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    count, rate = registries, 0.0
    order = asyncio.create_task(orders.readline())
    while True:
        await asyncio.wait({order}, timeout=1 / rate if rate else None)
        if order.done():
            if not order.result():
                break
            rate = float(order.result())
            order = asyncio.create_task(orders.readline())
        elif rate:
            put(world, count % registries, count // registries + 1)
            world.flush()
            count += 1
    await server.stop()


if __name__ == "__main__":
    pauses.starting()
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
