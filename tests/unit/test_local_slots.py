"""A slot brings about what is wished of it, and keeps it so when servers die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cascade_api.cascade import Variant
from cascade_api.worker_requests import Parameters
from cascade_operator.local import slots
from cascade_operator.local.driver import LocalCluster
from cascade_operator.local.server import ServerFailed
from cascade_operator.local.triton import InferenceCounts, TritonError
from cascade_operator.snapshot import (
    DrainWorker,
    HostState,
    Load,
    PoolRef,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)
from support.factories import make_cascade
from support.waiting import eventually

POOL = PoolRef("default", "cpu", "shapes")
OTHER = PoolRef("default", "cpu", "other")
LIGHT, HEAVY = make_cascade().spec.variants
VARIANTS = {variant.weights.digest: variant for variant in (LIGHT, HEAVY)}


class FakeChild:
    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.started = time.monotonic()


class FakeServer:
    """A server that counts an answer at every look, unless its model is broken."""

    def __init__(self, model: str, endpoint: str) -> None:
        self.model = model
        self.endpoint = endpoint
        self.child = FakeChild()
        self.client = self
        self.broken = False
        self.hung = False
        self.misses = 0
        """Looks that it does not answer, before it answers again."""
        self.loads = [model]
        self.probed: list[Parameters] = []
        self.answers = 0
        self.ended = False

    async def counts(self, model: str) -> InferenceCounts:
        missed, self.misses = self.misses > 0, max(0, self.misses - 1)
        if self.hung or missed:
            raise TritonError("DEADLINE_EXCEEDED: Deadline Exceeded")
        self.answers += not self.broken
        return InferenceCounts(self.answers, int(self.broken))

    async def probe(self, model: str, parameters: Parameters, *, timeout_s: float) -> None:
        self.probed.append(parameters)
        if self.broken:
            raise TritonError("INTERNAL: stub process is not healthy")

    async def prove(self, parameters: Parameters) -> None:
        await self.probe(self.model, parameters, timeout_s=1)

    async def change_model(self, model: str) -> None:
        self.model = model
        self.broken = False
        self.loads.append(model)

    def check_running(self) -> None:
        if self.child.ended.done():
            raise ServerFailed("its server ended (killed by SIGKILL)")

    def die(self) -> None:
        self.child.ended.set_result(-9)

    async def end(self) -> None:
        self.ended = True


class Machine:
    """A local cluster on fake servers."""

    def __init__(self) -> None:
        self.servers: list[FakeServer] = []
        self.start_error: str | None = None
        self.said: list[str] = []
        self.cluster: LocalCluster

    async def start_server(self, slot_id: str, model: str) -> FakeServer:
        if self.start_error:
            raise ServerFailed(self.start_error)
        self.servers.append(FakeServer(model, f"127.0.0.1:{9000 + len(self.servers)}"))
        return self.servers[-1]

    async def worker(self, slot_id: str) -> Worker | None:
        return next((worker for worker in await self.cluster.workers() if worker.id == slot_id), None)

    async def until(self, slot_id: str, state: WorkerState, variant: Variant) -> Worker:
        async def there() -> Worker | None:
            worker = await self.worker(slot_id)
            hosted = worker is not None and worker.hosting(*HostState) == (variant.weights.digest,)
            return worker if worker is not None and worker.state is state and hosted else None

        return await eventually(there, what=f"{slot_id} {state} with {variant.name}")


@asynccontextmanager
async def machine(slot_count: int = 2) -> AsyncIterator[Machine]:
    m = Machine()
    m.cluster = LocalCluster(
        slots=slot_count,
        variant_with=lambda _, weights: VARIANTS[weights],
        start_server=m.start_server,  # type: ignore[arg-type]
        changed=lambda: None,
        say=m.said.append,
    )
    try:
        yield m
    finally:
        await m.cluster.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "CHECK_EVERY_S", 0.01)


def start(variant: Variant) -> StartWorker:
    return StartWorker(POOL, "cpu", (variant.weights.digest,))


def load(variant: Variant, slot_id: str = "cpu-0") -> Load:
    return Load(slot_id, variant.weights.digest)


async def test_a_start_takes_a_free_slot_and_becomes_ready() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        worker = await m.worker("cpu-0")
        assert worker is not None
        assert worker.state is WorkerState.STARTING
        assert worker.hosting(HostState.LOADING) == (LIGHT.weights.digest,)
        ready = await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert (ready.endpoint, ready.pool) == ("127.0.0.1:9000", POOL)
        assert ready.hosting(HostState.READY) == (LIGHT.weights.digest,)
        assert await m.cluster.inventory() == {"cpu": 2}


async def test_starts_beyond_the_slots_or_of_another_class_do_nothing() -> None:
    async with machine(1) as m:
        await m.cluster.act(POOL, [StartWorker(POOL, "nvidia-l40s", (LIGHT.weights.digest,))])
        assert await m.cluster.workers() == ()
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.cluster.act(POOL, [start(HEAVY)])
        assert [worker.hosting(*HostState) for worker in await m.cluster.workers()] == [(LIGHT.weights.digest,)]


async def test_a_load_replaces_the_model_in_the_same_server() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        await m.cluster.act(POOL, [Unload("cpu-0", LIGHT.weights.digest), load(HEAVY)])
        worker = await m.worker("cpu-0")
        assert worker is not None
        assert worker.hosting(HostState.LOADING) == (HEAVY.weights.digest,)
        await m.until("cpu-0", WorkerState.READY, HEAVY)
        assert [server.loads for server in m.servers] == [[LIGHT.weights.model, HEAVY.weights.model]]
        assert m.servers[0].probed == [LIGHT.settings.parameters, HEAVY.settings.parameters]


async def test_moves_may_be_repeated() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        since = (await m.until("cpu-0", WorkerState.READY, LIGHT)).since_s
        for _ in range(3):
            await m.cluster.act(POOL, [load(LIGHT)])
        assert (await m.until("cpu-0", WorkerState.READY, LIGHT)).since_s == since
        for _ in range(2):
            await m.cluster.act(POOL, [StopWorker("cpu-0")])
        await eventually(lambda: m.servers[0].ended, what="the server ends")
        assert await m.cluster.workers() == ()
        assert len(m.servers) == 1


async def test_a_draining_worker_can_be_called_back() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        await m.cluster.act(POOL, [DrainWorker("cpu-0")])
        await m.until("cpu-0", WorkerState.DRAINING, LIGHT)
        await m.cluster.act(POOL, [load(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert m.servers[0].loads == [LIGHT.weights.model]


async def test_another_pools_worker_is_out_of_reach() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        await m.cluster.act(OTHER, [DrainWorker("cpu-0"), StopWorker("cpu-0"), load(HEAVY)])
        worker = await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert worker.pool == POOL


async def test_a_dead_server_is_replaced() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        m.servers[0].die()
        await eventually(lambda: len(m.servers) == 2, what="a second server")
        worker = await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert worker.endpoint == m.servers[1].endpoint
        assert m.servers[0].ended
        assert any("killed by SIGKILL" in line for line in m.said)


async def test_a_model_whose_process_died_is_loaded_again() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        m.servers[0].broken = True
        await eventually(lambda: m.servers[0].loads == [LIGHT.weights.model] * 2, what="a second load")
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert len(m.servers) == 1


async def test_a_server_that_hangs_is_replaced() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        m.servers[0].hung = True
        await eventually(lambda: len(m.servers) == 2, what="a second server")
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert m.servers[0].ended


async def test_a_server_that_misses_one_look_is_kept() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        m.servers[0].misses = 1
        await eventually(lambda: m.servers[0].misses == 0, what="the look that it misses")
        seen = m.servers[0].answers
        await eventually(lambda: m.servers[0].answers > seen + 1, what="more looks")
        assert len(m.servers) == 1
        assert m.servers[0].loads == [LIGHT.weights.model]


async def test_a_server_that_dies_while_draining_has_nothing_in_flight_and_is_not_replaced() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        await m.cluster.act(POOL, [DrainWorker("cpu-0")])
        m.servers[0].die()
        await eventually(lambda: m.servers[0].ended, what="the dead server is cleared away")
        worker = await m.until("cpu-0", WorkerState.DRAINING, LIGHT)
        assert worker.in_flight == {}
        await m.cluster.act(POOL, [load(HEAVY)])
        await m.until("cpu-0", WorkerState.READY, HEAVY)
        assert [server.model for server in m.servers] == [LIGHT.weights.model, HEAVY.weights.model]


async def test_a_slot_that_cannot_start_says_why_and_recovers() -> None:
    async with machine() as m:
        m.start_error = "no Triton environment"
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until("cpu-0", WorkerState.FAILED, LIGHT)
        assert m.cluster.problem == "cpu-0 (light): no Triton environment"
        m.start_error = None
        await m.until("cpu-0", WorkerState.READY, LIGHT)
        assert m.cluster.problem is None


async def test_closing_ends_every_server() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.cluster.act(POOL, [start(HEAVY)])
        await m.until("cpu-1", WorkerState.READY, HEAVY)
    assert all(server.ended for server in m.servers)
