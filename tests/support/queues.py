"""Work queues for tests: routers in this process or in their own, and an independent count of requests in flight."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from cascade_api.plan import Plan
from cascade_router.queue import Grant, QueueEntry, WorkQueue
from cascade_router.queue.operations import QueueTiming

from .plans import HEAVY, LIGHT, REF, make_plan
from .redis import RedisServer
from .waiting import PATIENCE_S, eventually

QUICK = QueueTiming(beat_ms=200, lease_ms=1_000, dead_ms=1_000, hold_ms=200)
"""The times of production, five times faster, for tests in which leases expire."""
STEADY = replace(QUICK, lease_ms=60_000, dead_ms=60_000)
"""Times with which no router is taken for dead, however late its heartbeats are on a busy machine."""


@asynccontextmanager
async def work_queues(
    url: str | None,
    *names: str,
    plan: Plan | None = None,
    limit: int = 1000,
    timing: QueueTiming = STEADY,
    timeout_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[list[WorkQueue]]:
    """A started queue for each router name, following ``plan``; a Redis that is slow to answer is not given up."""
    queues = [
        WorkQueue(url=url, ref=REF, router_id=name, limit=limit, timing=timing, timeout_s=timeout_s, clock=clock)
        for name in names
    ]
    try:
        for queue in queues:
            await queue.start()
            await queue.apply(plan or make_plan())
        yield queues
    finally:
        for queue in queues:
            await queue.close()


def entry(name: str, *, pool: str = LIGHT, band: int = 1, within_s: float = 600.0) -> QueueEntry:
    """An entry whose deadline is ``within_s`` from now."""
    return QueueEntry(name, pool, band, time.monotonic() + within_s)


class InFlight:
    """Counts, independently of the queue, what is in flight on each replica."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    async def serve(self, grant: Grant, seconds: float) -> None:
        """Take ``seconds`` on the replica of a grant."""
        replica = grant.replica_id
        self.now[replica] += 1
        self.most[replica] = max(self.most[replica], self.now[replica])
        self.served[replica] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.now[replica] -= 1


async def no_credit_is_lost(server: RedisServer) -> None:
    """Wait until nothing is leased and no credit is in use, as it must be when all was released."""
    with server.client() as client:

        def in_use() -> list[str]:
            leases = [lease for pool in (LIGHT, HEAVY) for lease in client.zrange(REF.leases_key(pool), 0, -1)]
            fields = [field for pool in (LIGHT, HEAVY) for field in client.hgetall(REF.credits_key(pool)).items()]
            return leases + [f"{name}={value}" for name, value in fields if name.startswith("u:") and value != "0"]

        await eventually(lambda: not in_use(), what="no credit in use")


ROUTER = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from support.queues import entry, work_queues
from support.plans import make_plan

async def main():
    async with work_queues({url!r}, {name!r}, plan=make_plan(replicas=1, batch={batch})) as [queue]:
        for number in range({held}):
            await queue.acquire(entry(f"held-{{number}}"))
        entries = [entry(f"w{{number}}", band=0) for number in range({waiting})]
        waiting = [asyncio.ensure_future(queue.acquire(entry)) for entry in entries]
        async with queue.hold_request("locked"):
            print("ready", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


def other_router(url: str, *, name: str, batch: int, held: int, waiting: int) -> subprocess.Popen[bytes]:
    """A router in a process of its own that holds grants and waits for more; to be killed."""
    tests = str(Path(__file__).parents[1])
    code = ROUTER.format(tests=tests, url=url, name=name, batch=batch, held=held, waiting=waiting)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"ready"
    return process


def make_old(server: RedisServer, router: str, *, pool: str, key: str) -> None:
    """As if a router had been silent for longer than its leases and the lock of a request last."""
    with server.client() as client:
        client.zadd(REF.routers_key, {router: 0})
        leases = client.zrange(REF.leases_key(pool), 0, -1)
        client.zadd(REF.leases_key(pool), dict.fromkeys(leases, 0))
        client.delete(REF.request_key(key))
