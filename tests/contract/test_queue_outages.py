"""Redis dies, hangs, or comes back empty or with bad data: each acquire still ends once, within replicas' credits."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest

from cascade_router.queue import Grant, RedisAway, WorkQueue, modes
from cascade_router.queue.operations import Operation, OperationResult
from cascade_router.queue.redis_queue import RedisQueue
from support.plans import HEAVY, LIGHT, REF, make_plan
from support.queues import QUICK, InFlight, entry, no_credit_is_lost, work_queues
from support.redis import RedisServer
from support.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.contract


class Traffic:
    """Requests of two stages, as fast as the replicas allow, until told to stop."""

    def __init__(self, queues: list[WorkQueue], *, clients: int) -> None:
        self.in_flight = InFlight()
        self.ended: Counter[str] = Counter()
        self._queues = queues
        self._stop = False
        self._tasks = [asyncio.ensure_future(self._client(number)) for number in range(clients)]

    async def _client(self, number: int) -> None:
        turn = 0
        while not self._stop:
            await self._request(self._queues[number % len(self._queues)], f"c{number}-{turn}")
            turn += 1

    async def _request(self, queue: WorkQueue, name: str) -> None:
        grant = await queue.acquire(entry(name))
        await self.in_flight.serve(grant, 0.005)
        grant = await queue.exchange(grant, entry(name, pool=HEAVY), service_s=0.005)
        await self.in_flight.serve(grant, 0.005)
        await queue.release(grant, service_s=0.005)
        self.ended[name] += 1

    async def more(self, count: int = 50) -> None:
        """Wait until so many more requests have ended well."""
        goal = self.ended.total() + count
        await eventually(lambda: self.ended.total() >= goal, what="more requests served")

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


async def shared(queues: list[WorkQueue]) -> None:
    await eventually(lambda: not any(queue.away for queue in queues), what="back at Redis")


async def alone(queues: list[WorkQueue]) -> None:
    await eventually(lambda: all(queue.away for queue in queues), what="away from Redis")


async def test_traffic_outlives_a_killed_redis_that_comes_back_empty(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a", plan=make_plan(replicas=2, batch=2)) as queues:
        traffic = Traffic(queues, clients=12)
        await traffic.more()
        for _ in range(3):
            mortal_redis.kill()
            await alone(queues)
            await traffic.more()
            mortal_redis.start()
            await shared(queues)
            await traffic.more()
        await traffic.stop()
        assert set(traffic.ended.values()) == {1}
        assert max(traffic.in_flight.most.values()) <= 2
        await no_credit_is_lost(mortal_redis)


async def test_two_routers_share_the_credits_out_and_together_again(
    mortal_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "GRACE_S", PATIENCE_S)
    async with work_queues(mortal_redis.url, "a", "b", plan=make_plan(replicas=1, batch=4)) as queues:
        await eventually(lambda: all(len(queue.routers) == 2 for queue in queues), what="both know both")
        traffic = Traffic(queues, clients=16)
        await traffic.more()
        mortal_redis.kill()
        await alone(queues)
        await traffic.more()
        traffic.in_flight.most.clear()
        await traffic.more()
        assert max(traffic.in_flight.most.values()) <= 4
        mortal_redis.start()
        await shared(queues)
        await traffic.more()
        await traffic.stop()
        assert set(traffic.ended.values()) == {1}
        assert max(traffic.in_flight.most.values()) <= 4


async def test_a_connection_with_the_number_of_an_earlier_one_is_left_alone(mortal_redis: RedisServer) -> None:
    """Whoever connects again ends its last connection; a Redis that was started since counts from the beginning."""
    redis = RedisQueue(
        url=mortal_redis.url,
        ref=REF,
        router_id="a",
        timing=QUICK,
        timeout_s=PATIENCE_S,
        on_message=lambda message: None,
        on_subscribed=lambda: None,
        on_failure=lambda reason: None,
    )
    with mortal_redis.client() as client:
        while client.client_id() < 40:
            client.connection_pool.disconnect()
        await redis.open()
        number = next(int(one["id"]) for one in client.client_list() if one["cmd"] == "script|load")
    mortal_redis.kill()
    mortal_redis.start()
    others = [mortal_redis.client()]
    while (latest := others[-1].client_id()) != number:
        assert latest < number
        others.append(mortal_redis.client())
    await redis.open()
    assert others[-1].client_id() == number, "it is connected as before"
    await redis.close()
    for other in others:
        other.close()


async def test_a_long_queue_moves_to_memory_and_back(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a", plan=make_plan(replicas=1), limit=3_000) as [queue]:
        held = await queue.acquire(entry("held"))
        tasks = [asyncio.ensure_future(queue.acquire(entry(f"w{n}", within_s=600 + n))) for n in range(3_000)]
        await eventually(lambda: queue.load(LIGHT).waiting == 3_000, what="all waiting")
        mortal_redis.kill()
        await alone([queue])
        assert queue.load(LIGHT).waiting == 3_000
        mortal_redis.start()
        await shared([queue])
        with mortal_redis.client() as client:
            await eventually(lambda: client.zcard(REF.queue_key(LIGHT)) == 3_000, what="all waiting in Redis again")
        assert not queue.away
        await queue.release(held, service_s=0.01)
        assert (await tasks[0]).entry.id == "w0"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_waits_is_served_in_memory(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a", plan=make_plan(replicas=1)) as [queue]:
        held = await queue.acquire(entry("held"))
        later = asyncio.ensure_future(queue.acquire(entry("later", band=2)))
        sooner = asyncio.ensure_future(queue.acquire(entry("sooner", band=1)))
        await eventually(lambda: queue.load(LIGHT).waiting == 2, what="both waiting")
        mortal_redis.kill()
        await queue.release(held, service_s=0.01)
        grant = await sooner
        assert queue.away
        assert not later.done()
        await queue.release(grant, service_s=0.01)
        await later


async def test_a_redis_that_hangs_is_left_and_found_again(mortal_redis: RedisServer) -> None:
    plan = make_plan(replicas=2, batch=2)
    # What was released meanwhile is leased in that Redis until the lease runs out.
    async with work_queues(mortal_redis.url, "a", "b", plan=plan, timing=QUICK, timeout_s=1.0) as queues:
        traffic = Traffic(queues, clients=12)
        await traffic.more()
        mortal_redis.signal(signal.SIGSTOP)
        await alone(queues)
        await traffic.more()
        mortal_redis.signal(signal.SIGCONT)
        await shared(queues)
        await traffic.more()
        await traffic.stop()
        assert set(traffic.ended.values()) == {1}
        await no_credit_is_lost(mortal_redis)


async def test_grants_in_flight_keep_their_credits_in_a_new_redis(mortal_redis: RedisServer) -> None:
    plan = make_plan(replicas=1, batch=2)
    async with work_queues(mortal_redis.url, "a", plan=plan) as [a]:
        held = [await a.acquire(entry(f"held{n}")) for n in range(2)]
        mortal_redis.kill()
        await alone([a])
        mortal_redis.start()
        await shared([a])
        async with work_queues(mortal_redis.url, "b", plan=plan) as [b]:
            waits = asyncio.ensure_future(b.acquire(entry("waits")))
            await eventually(lambda: b.load(LIGHT).waiting == 1, what="waiting")
            assert b.load(LIGHT).in_flight == 2
            await a.release(held[0], service_s=0.01)
            assert (await waits).replica_id == "light-0"


async def test_a_router_that_returns_is_seen_only_when_all_that_it_has_in_flight_is_counted(
    mortal_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[bool, int]] = []
    run = RedisQueue.run

    async def watched(queue: RedisQueue, operation: Operation) -> OperationResult:
        outcome = await run(queue, operation)
        with mortal_redis.client() as client:
            leases = sum(client.zcard(REF.leases_key(pool)) for pool in (LIGHT, HEAVY))
            counted.append((client.zscore(REF.routers_key, "a") is not None, leases))
        return outcome

    async with work_queues(mortal_redis.url, "a") as [queue]:
        for pool in (LIGHT, HEAVY):
            await queue.acquire(entry(pool, pool=pool))
        mortal_redis.kill()
        await alone([queue])
        monkeypatch.setattr(RedisQueue, "run", watched)
        mortal_redis.start()
        await shared([queue])
    assert {leases for there, leases in counted if there} == {2}


async def test_a_grant_released_while_redis_was_away_is_not_counted_after(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a", plan=make_plan(replicas=1)) as [queue]:
        held = await queue.acquire(entry("held"))
        mortal_redis.kill()
        await alone([queue])
        await queue.release(held, service_s=0.01)
        await queue.release(held, service_s=0.01)
        mortal_redis.start()
        await shared([queue])
        await queue.acquire(entry("next"))


async def test_a_router_that_starts_without_redis_joins_it_later(mortal_redis: RedisServer) -> None:
    mortal_redis.kill()
    async with work_queues(mortal_redis.url, "a") as [queue]:
        assert queue.away
        grant: Grant = await queue.acquire(entry("alone"))
        with pytest.raises(RedisAway):
            async with queue.hold_request("r"):
                raise AssertionError("was held without Redis")
        mortal_redis.start()
        await shared([queue])
        with mortal_redis.client() as client:
            await eventually(lambda: client.zcard(REF.leases_key(LIGHT)) == 1, what="the grant to be counted there")
        async with queue.hold_request("r") as held:
            assert held
        await queue.release(grant, service_s=0.01)


async def test_a_key_is_held_on_while_redis_is_away_and_taken_again(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a") as [queue], queue.hold_request("r") as held:
        assert held
        mortal_redis.kill()
        await alone([queue])
        async with queue.hold_request("r") as again:
            assert not again
        mortal_redis.start()
        await shared([queue])
        with mortal_redis.client() as client:
            await eventually(lambda: client.get(REF.request_key("r")) == "a", what="the lock is there too")


async def test_flushed_data_and_scripts_are_brought_back(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a", "b", plan=make_plan(replicas=2, batch=2)) as queues:
        traffic = Traffic(queues, clients=12)
        with mortal_redis.client() as client:
            await traffic.more()
            client.flushall()
            await traffic.more()
            client.script_flush()
            await traffic.more()
            client.flushall()
            client.set(REF.credits_key(LIGHT), "written by somebody else")
            await traffic.more()
            client.delete(REF.credits_key(LIGHT))
            await shared(queues)
            await traffic.more()
        await traffic.stop()
        assert set(traffic.ended.values()) == {1}


async def test_a_grant_whose_message_was_lost_is_found(mortal_redis: RedisServer) -> None:
    async with work_queues(mortal_redis.url, "a", "b", plan=make_plan(replicas=1)) as [a, b]:
        with mortal_redis.client() as client:
            for number in range(5):
                held = await a.acquire(entry(f"held{number}"))
                waits = asyncio.ensure_future(b.acquire(entry(f"waits{number}")))
                await eventually(lambda: b.load(LIGHT).waiting == 1, what="waiting")
                client.client_kill_filter(_type="pubsub")
                await a.release(held, service_s=0.01)
                await b.release(await waits, service_s=0.01)
                assert not b.away


async def test_without_a_redis_configured_the_queue_is_in_memory() -> None:
    async with work_queues(None, "a", plan=make_plan(replicas=1, batch=2)) as queues:
        traffic = Traffic(queues, clients=8)
        await traffic.more()
        await traffic.stop()
        assert not queues[0].away
        assert set(traffic.ended.values()) == {1}
        assert max(traffic.in_flight.most.values()) <= 2
