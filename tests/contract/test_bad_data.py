"""Bad data under a key of Redis only affects that key: other cascades are planned and served, and it recovers."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
import redis

from cascade_api.documents import CascadeFile
from cascade_api.names import CASCADE_INDEX, CascadeRef
from cascade_api.settings import PlannerSettings
from cascade_operator.local.reporter import LocalReporter
from cascade_operator.loop import Loop
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.snapshot import (
    Host,
    HostState,
    Load,
    Move,
    PoolRef,
    Snapshot,
    StartWorker,
    StopWorker,
    Worker,
    WorkerState,
)
from cascade_operator.sources import FileSource, PoolSubject, Subject
from cascade_operator.store import Store
from cascade_router.requests import unique_of
from support.factories import make_cascade, make_profile
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

SHAPES, OTHER = CascadeRef("default", "shapes"), CascadeRef("default", "other")
DRAWN = random.Random(19)
NUMBERS = ["nan", "inf", "-inf", "-1", "1e300", str(2**63), "x", b"\xff\xfe", ""]
Plant = Callable[[redis.Redis, str], object]


def bytes_of(size: int) -> bytes:
    return DRAWN.randbytes(size)


def fields() -> dict[str | bytes, str | bytes]:
    """Fields as some hash of ours has them, and their values as none of ours are."""
    now = int(time.time())
    names: list[str | bytes] = [
        "zz",
        b"\xff",
        "u:ghost",
        "c:ghost",
        "s:ghost",
        "h:ghost",
        "generation",
        "state",
        "token",
    ]
    names += [str(now - 2), str(now + 10**6), "-5", "u:shapes-light-0", "s:shapes-heavy-0", "c:shapes-light-0"]
    return {name: DRAWN.choice(NUMBERS) for name in names}


GARBAGE: dict[str, Plant] = {
    "text": lambda client, key: client.set(key, "x"),
    "bytes": lambda client, key: client.set(key, bytes_of(100)),
    "deep JSON": lambda client, key: client.set(key, "[" * 100_000),
    "numbers": lambda client, key: client.set(
        key, '{"generation": 1e999, "rows": NaN, "hardness": [-1e308, Infinity]}'
    ),
    "long": lambda client, key: client.setrange(key, 8_000_000, "x"),
    "hash": lambda client, key: client.hset(key, mapping=fields()),
    "list": lambda client, key: client.rpush(key, bytes_of(10), "x"),
    "set": lambda client, key: client.sadd(key, bytes_of(10), "x", "a/b/c"),
    "sorted set": lambda client, key: client.zadd(
        key, {bytes_of(8): 1, b"\xff": time.time() * 1000, "x": float("inf"), "y": -1e300, "r|t@x": 1e15}
    ),
    "stream": lambda client, key: client.xadd(key, {"a": "b"}),
}


def planted(client: redis.Redis, key: str, plant: Plant) -> None:
    """Garbage instead of what was there, or where its type is that of the key, among it."""
    try:
        plant(client, key)
    except redis.ResponseError:
        client.delete(key)
        plant(client, key)


class Workers:
    """A cluster whose workers are ready the moment they are started."""

    def __init__(self) -> None:
        self.all: dict[str, Worker] = {}

    async def inventory(self) -> Mapping[str, int] | None:
        return {"cpu": 4}

    async def workers(self) -> tuple[Worker, ...]:
        return tuple(self.all.values())

    async def reconcile(self, subjects: Sequence[Subject], pools: Sequence[PoolSubject]) -> None: ...

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        for move in moves:
            match move:
                case StartWorker():
                    self._host(f"{pool.cascade}-{len(self.all)}", pool, move.weights[0])
                case Load():
                    self._host(move.worker, pool, move.weights)
                case StopWorker():
                    self.all.pop(move.worker, None)

    def _host(self, name: str, pool: PoolRef, weights: str) -> None:
        hosts = (Host(weights, HostState.READY, 0.0),)
        self.all[name] = Worker(name, pool, "cpu", "127.0.0.1:9000", WorkerState.READY, 0.0, hosts, {})

    async def close(self) -> None: ...


@asynccontextmanager
async def operator(server: RedisServer) -> AsyncIterator[tuple[Loop, Store, list[Snapshot]]]:
    """A planner's loop over two cascades, its Redis and the snapshots that it decided on."""
    cascades = [make_cascade(ref.name, profileRef__name="shapes") for ref in (SHAPES, OTHER)]
    seen: list[Snapshot] = []

    planner = Planner(PlannerSettings())

    def deciding(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        seen.append(snapshot)
        return planner.decide(snapshot, memory, now)

    async with Store(server.url, timeout_s=PATIENCE_S) as store:
        yield (
            Loop(
                FileSource(CascadeFile(cascades=cascades, profiles=[make_profile()])),
                cluster=Workers(),
                store=store,
                decide=deciding,
                reporter=LocalReporter(say=lambda line: None, keep_status=lambda ref, status: None),
            ),
            store,
            seen,
        )


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_the_planner_plans_on_and_puts_its_own_right(redis_server: RedisServer, garbage: str) -> None:
    """Under every key that it reads, in turn; a planner that starts then bears it, too."""
    keys = [CASCADE_INDEX, SHAPES.plan_key, SHAPES.demand_key, SHAPES.memory_key, SHAPES.routers_key]
    keys += [key(pool) for pool in ("light.cpu", "heavy.cpu") for key in (SHAPES.queue_key, SHAPES.credits_key)]
    now = int(time.time())
    async with operator(redis_server) as (loop, store, seen):
        for _ in range(3):
            await loop.tick()
        for key in [*keys, SHAPES.scores_key("r1")]:
            with redis_server.client() as client:
                client.zadd(SHAPES.routers_key, {"r1": 1000 * (now + 3600)})
                client.hset(OTHER.demand_key, str(now - 2), 3)
                planted(client, key, GARBAGE[garbage])
            await loop.tick()
            await loop.tick()
            assert store.available, key
            shapes, other = seen[-1].cascades
            assert seen[-1].store_available
            assert shapes.queue_depths is not None
            assert other.demand is not None
            assert other.demand.counts == ((now - 2, 3),), key
            for ref in (SHAPES, OTHER):
                assert await store.plan(ref) == loop.plan(ref), key
            assert await store.published() == {SHAPES, OTHER}, key
            async with operator(redis_server) as (second, _, _):
                await second.tick()
                assert second.plan(OTHER) is not None
            with redis_server.client() as client:
                client.delete(*{key, SHAPES.routers_key} - {CASCADE_INDEX, SHAPES.plan_key})


@pytest.fixture
def router(
    redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter
) -> Iterator[RouterProcess]:
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    plans = [make_plan(replicas, execution_s=SECONDS, name=ref.name) for ref in (SHAPES, OTHER)]
    return start_router(redis_server, *plans, router_id="r1")


@pytest.mark.parametrize("turn", range(3))
def test_routers_serve_on_and_put_their_own_right(redis_server: RedisServer, router: RouterProcess, turn: int) -> None:
    """Under every key that a router reads, in turn; each has another kind of garbage in each turn."""
    types = {CASCADE_INDEX: "set", SHAPES.plan_key: "string"}
    own = {SHAPES.demand_key: "hash", SHAPES.routers_key: "zset", SHAPES.scores_key("r1"): "string"}
    lock = SHAPES.request_key(unique_of("mine", tenant=""))
    own |= {SHAPES.jobs_key: "zset", SHAPES.jobs_open_key: "hash", SHAPES.job_results_key: "hash"}
    own |= {SHAPES.jobs_removed_key: "zset", SHAPES.jobs_pace_key: "hash", lock: "string"}
    pool = "shapes-light.cpu"
    own |= {SHAPES.queue_key(pool): "zset", SHAPES.credits_key(pool): "hash", SHAPES.leases_key(pool): "zset"}
    kinds = list(GARBAGE)
    for number, (key, kind) in enumerate({**types, **own}.items()):
        garbage = kinds[(number + 3 * turn) % len(kinds)]
        with redis_server.client() as client:
            plan = client.get(SHAPES.plan_key)
            planted(client, key, GARBAGE[garbage])
        assert router.ask(EASY, parameters={"idempotency_key": "mine"}).route, key
        assert router.ask(EASY, model="other").route, key
        with redis_server.client() as client:

            def heals(key: str = key, kind: str = kind) -> bool:
                router.post({"prompt": EASY, "model": "shapes"})
                if "job" in key:
                    httpx.post(
                        f"{router.http_url}/v1/jobs", json={"prompt": EASY, "model": "shapes"}, timeout=PATIENCE_S
                    )
                shared = "cascade_store_away 0.0" in router.get("/metrics").text
                return shared and client.type(key) in (kind, "none")

            if key in own:
                wait_for(heals, what=f"{key} to heal", every_s=0.2)
            else:
                client.delete(CASCADE_INDEX, SHAPES.plan_key)
                client.sadd(CASCADE_INDEX, str(SHAPES), str(OTHER))
                client.set(SHAPES.plan_key, plan)
    assert router.process is not None
    assert router.process.poll() is None
    assert "Traceback" not in router.log.read_text()
