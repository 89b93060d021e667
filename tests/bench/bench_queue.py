"""What the queue costs: `python tests/bench/bench_queue.py` prints round trips and microseconds per operation.

A real Valkey, two routers in one process, requests of two stages that hold their replicas for no time at all.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cascade_router.queue import QueueEntry, WorkQueue
from support.plans import HEAVY, LIGHT, REF, make_plan
from support.redis import RedisServer


async def one(queue: WorkQueue, name: str) -> None:
    """A request that goes through both stages."""
    deadline = time.monotonic() + 60
    grant = await queue.acquire(QueueEntry(name, LIGHT, 1, deadline))
    grant = await queue.exchange(grant, QueueEntry(name, HEAVY, 1, deadline), service_s=0.01)
    await queue.release(grant, service_s=0.01)


async def measure(url: str | None, *, routers: int, requests: int, concurrency: int) -> tuple[float, float]:
    """(wall seconds, CPU seconds) per stage."""
    queues = [WorkQueue(url=url, ref=REF, router_id=f"router-{number}", limit=10**6) for number in range(routers)]
    for queue in queues:
        await queue.start()
        await queue.apply(make_plan(replicas=4, batch=8))

    async def client(number: int) -> None:
        for turn in range(requests // concurrency):
            await one(queues[number % routers], f"{number}-{turn}")

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(concurrency)))
    stages = requests // concurrency * concurrency * 2
    cost = (time.perf_counter() - wall) / stages, (time.process_time() - cpu) / stages
    for queue in queues:
        await queue.close()
    return cost


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    columns = ["wall µs/stage", "CPU µs/stage", "calls/stage", "Redis µs/call"]
    print(" " * 32, *(f"{column:>14}" for column in columns))
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            for routers, concurrency in [(1, 1), (1, 16), (2, 64), (1, 500)]:
                with server.client() as client:
                    client.flushall()
                    client.config_resetstat()
                    cost = asyncio.run(measure(server.url, routers=routers, requests=requests, concurrency=concurrency))
                    stats = client.info("commandstats")["cmdstat_evalsha"]
                calls = stats["calls"] / (requests // concurrency * concurrency * 2)
                name = f"Redis, {routers} router(s), {concurrency} at once"
                figures = cost[0] * 1e6, cost[1] * 1e6, calls, stats["usec_per_call"]
                print(f"{name:32}", *(f"{figure:14.2f}" for figure in figures))
            cost = asyncio.run(measure(None, routers=1, requests=requests, concurrency=64))
            print(f"{'memory, 64 at once':32}", *(f"{figure * 1e6:14.2f}" for figure in cost))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
