"""The operator's side of Redis: what it publishes and reads, and how it bears a server that is away."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from cascade_api.names import CASCADE_INDEX, CascadeRef
from cascade_api.plan import Plan
from cascade_api.report import RouterReport
from cascade_operator.store import Store, pools_of
from support.factories import make_cascade
from support.redis import RedisServer
from support.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.contract
REF = CascadeRef("default", "shapes")
POOLS = ("light.cpu", "heavy.cpu")


def make_plan(generation: int = 7) -> Plan:
    return Plan.model_validate(
        {
            "generation": generation,
            "cascade": str(REF),
            "issuedAt": "2026-01-01T00:00:00Z",
            "reason": "InitialPlan",
            "objectiveS": 2,
            "attainment": 0.99,
            "overload": "degrade",
            "discriminator": "builtin://shapes",
            "sizes": ["32x32"],
            "variants": {},
            "rows": [{"share": 1, "chain": ["light", "heavy"], "direct": 0.1, "escalation": 0.5}],
            "workers": [],
            "expected": {"demand": 1, "latencyP99": 0.1, "quality": 0.9},
        }
    )


async def test_a_published_plan_is_indexed_and_announced(redis_server: RedisServer) -> None:
    with redis_server.client() as client, client.pubsub() as listener:
        listener.subscribe(REF.plan_channel)
        assert listener.get_message(timeout=PATIENCE_S) is not None
        async with Store(redis_server.url) as store:
            assert await store.publish(make_plan(7))
            assert await store.plan(REF) == make_plan(7)
        message = listener.get_message(timeout=PATIENCE_S)
        assert message is not None
        assert message["data"] == "7"
        assert client.smembers(CASCADE_INDEX) == {str(REF)}
        assert client.ttl(REF.plan_key) == -1


async def test_everything_about_a_cascade_is_read_in_one_look(redis_server: RedisServer) -> None:
    now = int(time.time())
    now_ms = int((now + PATIENCE_S) * 1000)  # whoever was heard of then is there for as long as the test takes
    report = RouterReport(router="r1", at_ms=now_ms, plan_generation=7, received=5)
    with redis_server.client() as client:
        client.set(REF.plan_key, make_plan().to_json())
        client.hset(REF.demand_key, mapping={now - 1: "4", now - 2: "3"})
        client.zadd(REF.queue_key("heavy.cpu"), {"a": 1, "b": 2})
        client.hset(REF.credits_key("heavy.cpu"), mapping={"c:cpu-0": 2, "u:cpu-0": 1, "s:cpu-0": "0.04"})
        client.hset(REF.credits_key("light.cpu"), mapping={"c:cpu-1": 4, "u:cpu-1": 0})
        client.zadd(REF.routers_key, {"r1": now_ms, "long-dead": now_ms - 600_000, "mute": now_ms, "broken": now_ms})
        client.set(REF.scores_key("r1"), report.model_dump_json(by_alias=True))
        client.set(REF.scores_key("broken"), "{")
    async with Store(redis_server.url) as store:
        assert await store.save_memory(REF, "{}")
        seen = await store.observe(REF, POOLS)
    assert seen is not None
    assert seen.plan == make_plan()
    assert seen.demand.counts == ((now - 2, 3), (now - 1, 4))
    assert seen.queue_depths == {"light.cpu": 0, "heavy.cpu": 2}
    assert seen.in_use == {"heavy.cpu": {"cpu-0": 1}, "light.cpu": {"cpu-1": 0}}
    assert seen.reports == (report,)
    assert seen.memory == "{}"


async def test_an_empty_redis_knows_nothing_and_says_so(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set(REF.plan_key, "no plan at all")
    async with Store(redis_server.url) as store:
        seen = await store.observe(REF, POOLS)
    assert seen is not None
    assert (seen.plan, seen.demand.counts, seen.reports, seen.memory) == (None, (), (), None)


async def test_a_cascade_can_be_withdrawn(redis_server: RedisServer) -> None:
    async with Store(redis_server.url) as store:
        await store.publish(make_plan())
        await store.save_memory(REF, "{}")
        assert await store.forget(REF)
    with redis_server.client() as client:
        assert client.keys("*") == []


async def test_a_redis_that_goes_away_and_comes_back_is_noticed_both_times(mortal_redis: RedisServer) -> None:
    async with Store(mortal_redis.url, timeout_s=PATIENCE_S) as store:
        assert await store.publish(make_plan())
        mortal_redis.kill()
        assert await store.observe(REF, POOLS) is None
        assert not await store.publish(make_plan())
        assert not await store.ping()
        assert not store.available
        mortal_redis.start()
        assert await store.publish(make_plan())
        assert store.available


async def test_a_redis_that_hangs_is_away(mortal_redis: RedisServer) -> None:
    async with Store(mortal_redis.url, timeout_s=0.2) as store:
        await eventually(store.ping, what="a connection")
        mortal_redis.signal(signal.SIGSTOP)
        try:
            assert await asyncio.wait_for(store.observe(REF, POOLS), PATIENCE_S) is None
            assert not store.available
        finally:
            mortal_redis.signal(signal.SIGCONT)


def test_pools_are_those_that_have_workers() -> None:
    cascade = make_cascade(workers={"cpu": 2, "nvidia-l40s": 0})
    assert pools_of(cascade) == ["light.cpu", "heavy.cpu"]
