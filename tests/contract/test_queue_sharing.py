"""Several routers share the replicas through a real Redis: one order, no credit given twice, two calls a stage."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest

from cascade_router.queue import EntryExpired, Grant, NoReadyReplica, QueueFull, WorkQueue
from support.plans import HEAVY, LIGHT, REF, make_plan
from support.queues import STEADY, InFlight, entry, make_old, no_credit_is_lost, other_router, work_queues
from support.redis import RedisServer
from support.waiting import eventually

pytestmark = pytest.mark.contract


def waiting(queue: WorkQueue, count: int, pool: str = LIGHT) -> object:
    return eventually(lambda: queue.load(pool).waiting == count, what=f"{count} waiting")


async def test_grants_follow_one_order_over_all_routers(redis_server: RedisServer) -> None:
    rng = random.Random(7)
    async with work_queues(redis_server.url, "a", "b", plan=make_plan(replicas=1)) as queues:
        grant = await queues[0].acquire(entry("first"))
        entries = [entry(f"e{n}", band=rng.randrange(3), within_s=rng.uniform(600, 1200)) for n in range(24)]
        order: list[str] = []

        async def wait(queue: WorkQueue, number: int) -> Grant:
            grant = await queue.acquire(entries[number])
            order.append(grant.entry.id)
            await queue.release(grant, service_s=0.001)
            return grant

        tasks = [asyncio.ensure_future(wait(queues[n % 2], n)) for n in range(24)]
        await eventually(lambda: max(queue.load(LIGHT).waiting for queue in queues) == 24, what="all waiting")
        await queues[0].release(grant, service_s=0.001)
        await asyncio.gather(*tasks)
        assert order == [e.id for e in sorted(entries, key=lambda e: (e.band, e.deadline))]


async def test_credits_are_never_overrun_whatever_the_plan_does(redis_server: RedisServer) -> None:
    in_flight = InFlight()
    rng = random.Random(3)
    async with work_queues(redis_server.url, "a", "b", "c", plan=make_plan(batch=3)) as queues:

        async def request(number: int) -> None:
            queue = queues[number % 3]
            grant = await queue.acquire(entry(f"e{number}"))
            await in_flight.serve(grant, rng.uniform(0, 0.01))
            grant = await queue.exchange(grant, entry(f"e{number}", pool=HEAVY), service_s=0.01)
            await in_flight.serve(grant, rng.uniform(0, 0.01))
            await queue.release(grant, service_s=0.01)

        async def replan() -> None:
            for generation in range(2, 8):
                await asyncio.sleep(0.05)
                draining = ("light-0",) if generation % 2 else ()
                for queue in queues:
                    await queue.apply(make_plan(generation=generation, batch=3, draining=draining))

        await asyncio.gather(replan(), *(request(number) for number in range(300)))
        assert sum(in_flight.served.values()) == 600
        assert max(in_flight.most.values()) <= 3
        await no_credit_is_lost(redis_server)


async def test_a_stage_costs_at_most_two_calls(redis_server: RedisServer) -> None:
    requests = 40
    async with work_queues(redis_server.url, "a", "b", plan=make_plan(replicas=1)) as queues:

        async def request(number: int) -> None:
            queue = queues[number % 2]
            grant = await queue.acquire(entry(f"e{number}"))
            grant = await queue.exchange(grant, entry(f"e{number}", pool=HEAVY), service_s=0.001)
            await queue.release(grant, service_s=0.001)

        with redis_server.client() as client:
            client.config_resetstat()
            began = time.monotonic()
            await asyncio.gather(*(request(number) for number in range(requests)))
            await eventually(lambda: queues[0].load(HEAVY).in_flight == 0, what="all released")
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        beats = (time.monotonic() - began) / (STEADY.beat_ms / 1000) + 2
        # enqueue, exchange, release: three for two stages, and each router's heartbeat and reap of two pools
        assert calls <= requests * 3 + beats * 2 * 4


async def test_a_full_queue_refuses_with_a_hint(redis_server: RedisServer) -> None:
    plan = make_plan(replicas=1, execution_s=2.0)
    async with work_queues(redis_server.url, "a", "b", plan=plan, limit=3) as [a, b]:
        held = await a.acquire(entry("held"))
        tasks = [asyncio.ensure_future(a.acquire(entry(f"w{n}"))) for n in range(3)]
        await waiting(a, 3)
        with pytest.raises(QueueFull) as refused:
            await b.acquire(entry("one too many"))
        assert refused.value.waiting == 3
        assert refused.value.expected_wait_s == pytest.approx(8.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await waiting(a, 0)
        await a.release(held, service_s=None)
        assert (await b.acquire(entry("now there is room"))).replica_id == "light-0"


async def test_a_cancelled_acquire_leaves_nothing_behind(redis_server: RedisServer) -> None:
    async with work_queues(redis_server.url, "a", plan=make_plan(replicas=1)) as [queue]:
        held = await queue.acquire(entry("held"))
        waits = asyncio.ensure_future(queue.acquire(entry("waits")))
        await waiting(queue, 1)
        waits.cancel()
        await waiting(queue, 0)
        await queue.release(held, service_s=None)
        at_once = asyncio.ensure_future(queue.acquire(entry("cancelled before the reply")))
        await asyncio.sleep(0)
        at_once.cancel()
        await asyncio.gather(at_once, return_exceptions=True)
        await eventually(lambda: queue.load(LIGHT).in_flight == 0, what="credit back")


async def test_an_entry_ends_at_its_deadline(redis_server: RedisServer) -> None:
    async with work_queues(redis_server.url, "a", plan=make_plan(replicas=1)) as [queue]:
        await queue.acquire(entry("held"))
        with pytest.raises(EntryExpired):
            await queue.acquire(entry("hasty", within_s=0.2))
        with pytest.raises(EntryExpired):
            await queue.acquire(entry("too late", within_s=-1))
        await waiting(queue, 0)


async def test_a_pool_that_loses_its_last_replica_sends_everybody_away(redis_server: RedisServer) -> None:
    async with work_queues(redis_server.url, "a", "b", plan=make_plan(replicas=1)) as [a, b]:
        held = await a.acquire(entry("held"))
        tasks = [asyncio.ensure_future(queue.acquire(entry("waits"))) for queue in (a, b)]
        await eventually(lambda: max(queue.load(LIGHT).waiting for queue in (a, b)) == 2, what="both waiting")
        await a.apply(make_plan(generation=2, replicas=1, draining=("light-0",)))
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, NoReadyReplica)
        with pytest.raises(NoReadyReplica):
            await a.acquire(entry("comes later"))
        with pytest.raises(NoReadyReplica):
            await a.acquire(entry("no such pool", pool="nowhere.cpu"))
        with redis_server.client() as client:
            assert client.hget(REF.credits_key(LIGHT), "u:light-0") == "1"
            await a.release(held, service_s=0.01)
            await eventually(lambda: client.hget(REF.credits_key(LIGHT), "u:light-0") == "0", what="drained")


async def test_a_pool_that_the_plan_drops_is_watched_until_it_is_empty(redis_server: RedisServer) -> None:
    async with work_queues(redis_server.url, "a", plan=make_plan(replicas=1)) as [queue]:
        held = await queue.acquire(entry("held"))
        await queue.apply(make_plan(generation=2, replicas=1, pools=(HEAVY,)))
        with redis_server.client() as client:
            lease_before = client.zrange(REF.leases_key(LIGHT), 0, -1, withscores=True)
            await eventually(
                lambda: client.zrange(REF.leases_key(LIGHT), 0, -1, withscores=True) > lease_before, what="renewed"
            )
            await queue.release(held, service_s=0.01)
            await eventually(lambda: client.zcard(REF.leases_key(LIGHT)) == 0, what="empty")


@pytest.mark.parametrize(("hold_ms", "comes_back"), [(600_000, False), (100, True)])
async def test_a_failed_replica_rests_while_the_others_serve(
    redis_server: RedisServer, hold_ms: int, comes_back: bool
) -> None:
    timing = replace(STEADY, hold_ms=hold_ms)
    async with work_queues(redis_server.url, "a", plan=make_plan(replicas=2), timing=timing) as [queue]:
        grant = await queue.acquire(entry("fails"))
        await queue.release(grant, service_s=None, failed=True)
        tasks = [asyncio.ensure_future(queue.acquire(entry(f"e{number}"))) for number in range(2)]
        if comes_back:
            assert {(await task).replica_id for task in tasks} == {"light-0", "light-1"}
        else:
            assert {grant.replica_id, (await tasks[0]).replica_id} == {"light-0", "light-1"}
            await waiting(queue, 1)
            tasks[1].cancel()
            await asyncio.wait(tasks)


async def test_the_faster_replica_gets_the_more_work(redis_server: RedisServer) -> None:
    async with work_queues(redis_server.url, "a", "b", plan=make_plan(replicas=2, batch=4)) as [a, b]:
        slow, fast = await a.acquire(entry("slow")), await b.acquire(entry("fast"))
        await a.release(slow, service_s=0.4)
        await b.release(fast, service_s=0.01)
        await eventually(lambda: a.load(LIGHT).in_flight == 0, what="both known")
        grants = [await queue.acquire(entry(f"{turn}")) for turn, queue in enumerate((a, b, a, b, a))]
    assert slow.replica_id != fast.replica_id
    assert [grant.replica_id for grant in grants] == [fast.replica_id] * 4 + [slow.replica_id]


async def test_a_key_is_held_once_over_all_routers(redis_server: RedisServer) -> None:
    async with work_queues(redis_server.url, "a", "b") as [a, b]:
        async with a.hold_request("r") as held, a.hold_request("r") as again, b.hold_request("r") as elsewhere:
            assert (held, again, elsewhere) == (True, False, False)
        with redis_server.client() as client:
            await eventually(lambda: not client.exists(REF.request_key("r")), what="lock gone")
        async with b.hold_request("r") as held:
            assert held


async def test_a_long_request_keeps_its_lock(redis_server: RedisServer) -> None:
    later = 0.0
    async with (
        work_queues(redis_server.url, "a", clock=lambda: time.monotonic() + later) as [a],
        work_queues(redis_server.url, "b") as [b],
        a.hold_request("r"),
    ):
        with redis_server.client() as client:
            middle = await eventually(lambda: client.pttl(REF.request_key("r")), what="locked") - 300
            await eventually(lambda: client.pttl(REF.request_key("r")) < middle, what="ageing")
            later = STEADY.lease_ms / 1000 / 2
            await eventually(lambda: client.pttl(REF.request_key("r")) > middle, what="renewed")
        async with b.hold_request("r") as held:
            assert not held


async def test_what_a_killed_router_held_comes_back(redis_server: RedisServer) -> None:
    router = other_router(redis_server.url, name="doomed", batch=2, held=2, waiting=3)
    try:
        async with work_queues(redis_server.url, "a", plan=make_plan(replicas=1, batch=2)) as [queue]:
            first = asyncio.ensure_future(queue.acquire(entry("waits behind the dead", band=1)))
            await waiting(queue, 4)
            async with queue.hold_request("locked") as held:
                assert not held
            router.kill()
            router.wait()
            make_old(redis_server, "doomed", pool=LIGHT, key="locked")
            await first
            await queue.acquire(entry("the other credit"))
            await waiting(queue, 0)
            async with queue.hold_request("locked") as held:
                assert held
    finally:
        router.kill()
        router.wait()
