"""A slot reaches the wanted state, and keeps it if servers die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cascade_api.names import CascadeRef
from cascade_api.worker_requests import Parameters
from cascade_operator.local import slots
from cascade_operator.local.driver import LocalCluster
from cascade_operator.local.server import ServerFailed
from cascade_operator.local.triton import InferenceCounts, TritonError
from cascade_operator.snapshot import Drain, Replica, ReplicaState, Start, Stop
from support.factories import make_cascade
from support.waiting import eventually

REF = CascadeRef("default", "shapes")
OTHER = CascadeRef("default", "other")
LIGHT, HEAVY = make_cascade().spec.variants
QUICK = HEAVY.model_copy(update={"name": "quick", "settings": HEAVY.settings.model_copy(update={"steps": 8})})
VARIANTS = {variant.name: variant for variant in (LIGHT, HEAVY, QUICK)}


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

    async def replica(self, slot_id: str, ref: CascadeRef = REF) -> Replica | None:
        return next((r for r in await self.cluster.replicas(ref) if r.id == slot_id), None)

    async def until(self, slot_id: str, state: ReplicaState, variant: str) -> Replica:
        async def there() -> Replica | None:
            replica = await self.replica(slot_id)
            return replica if replica and (replica.state, replica.variant) == (state, variant) else None

        return await eventually(there, what=f"{slot_id} {state} with {variant}")


@asynccontextmanager
async def machine(slot_count: int = 2) -> AsyncIterator[Machine]:
    m = Machine()
    m.cluster = LocalCluster(
        slots=slot_count,
        variant_of=lambda _, name: VARIANTS[name],
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


def start(variant: str, slot_id: str | None = None, ref: CascadeRef = REF) -> Start:
    return Start(ref, slot_id, "cpu", variant)


async def test_a_start_takes_a_free_slot_and_becomes_ready() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        replica = await m.replica("cpu-0")
        assert replica is not None
        assert replica.state is ReplicaState.STARTING
        assert (await m.until("cpu-0", ReplicaState.READY, "light")).endpoint == "127.0.0.1:9000"
        assert await m.cluster.inventory() == {"cpu": 2}


async def test_starts_beyond_the_slots_or_of_another_class_do_nothing() -> None:
    async with machine(1) as m:
        await m.cluster.act([Start(REF, None, "nvidia-l40s", "light")])
        assert await m.cluster.replicas(REF) == ()
        await m.cluster.act([start("light")])
        await m.cluster.act([start("heavy")])
        assert [r.variant for r in await m.cluster.replicas(REF)] == ["light"]


async def test_a_drained_replica_changes_its_model_in_the_same_server() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(REF, "cpu-0")])
        await m.until("cpu-0", ReplicaState.DRAINING, "light")
        await m.cluster.act([start("heavy", "cpu-0")])
        await m.until("cpu-0", ReplicaState.READY, "heavy")
        assert [server.loads for server in m.servers] == [[LIGHT.weights.model, HEAVY.weights.model]]


async def test_a_variant_of_the_same_weights_is_served_at_once() -> None:
    async with machine() as m:
        await m.cluster.act([start("heavy")])
        await m.until("cpu-0", ReplicaState.READY, "heavy")
        await m.cluster.act([Drain(REF, "cpu-0")])
        await m.cluster.act([start("quick", "cpu-0")])
        replica = await m.replica("cpu-0")
        assert replica is not None
        assert (replica.variant, replica.state) == ("quick", ReplicaState.READY)
        seen = m.servers[0].answers
        await eventually(lambda: m.servers[0].answers > seen, what="its model to be looked after")
        assert [server.loads for server in m.servers] == [[HEAVY.weights.model]]
        assert m.servers[0].probed == [HEAVY.settings.parameters, QUICK.settings.parameters]


async def test_actions_may_be_repeated() -> None:
    async with machine() as m:
        for _ in range(3):
            await m.cluster.act([start("light", "cpu-1")])
        await m.until("cpu-1", ReplicaState.READY, "light")
        since = (await m.until("cpu-1", ReplicaState.READY, "light")).since_s
        await m.cluster.act([start("light", "cpu-1")])
        assert (await m.until("cpu-1", ReplicaState.READY, "light")).since_s == since
        for _ in range(2):
            await m.cluster.act([Stop(REF, "cpu-1")])
        await eventually(lambda: m.servers[0].ended, what="the server ends")
        assert await m.cluster.replicas(REF) == ()
        assert len(m.servers) == 1


async def test_a_draining_replica_can_be_called_back() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(REF, "cpu-0")])
        await m.cluster.act([start("light", "cpu-0")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        assert m.servers[0].loads == [LIGHT.weights.model]


async def test_another_cascades_replica_is_out_of_reach() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(OTHER, "cpu-0")])
        await m.cluster.act([Stop(OTHER, "cpu-0")])
        await m.cluster.act([start("heavy", "cpu-0", OTHER)])
        assert await m.cluster.replicas(OTHER) == ()
        await m.until("cpu-0", ReplicaState.READY, "light")


async def test_a_dead_server_is_replaced() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        m.servers[0].die()
        await eventually(lambda: len(m.servers) == 2, what="a second server")
        replica = await m.until("cpu-0", ReplicaState.READY, "light")
        assert replica.endpoint == m.servers[1].endpoint
        assert m.servers[0].ended
        assert any("killed by SIGKILL" in line for line in m.said)


async def test_a_model_whose_process_died_is_loaded_again() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        m.servers[0].broken = True
        await eventually(lambda: m.servers[0].loads == [LIGHT.weights.model] * 2, what="a second load")
        await m.until("cpu-0", ReplicaState.READY, "light")
        assert len(m.servers) == 1


async def test_a_server_that_hangs_is_replaced() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        m.servers[0].hung = True
        await eventually(lambda: len(m.servers) == 2, what="a second server")
        await m.until("cpu-0", ReplicaState.READY, "light")
        assert m.servers[0].ended


async def test_a_server_that_misses_one_look_is_kept() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        m.servers[0].misses = 1
        await eventually(lambda: m.servers[0].misses == 0, what="the look that it misses")
        seen = m.servers[0].answers
        await eventually(lambda: m.servers[0].answers > seen + 1, what="more looks")
        assert len(m.servers) == 1
        assert m.servers[0].loads == [LIGHT.weights.model]


async def test_a_server_that_dies_while_draining_has_nothing_in_flight_and_is_not_replaced() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(REF, "cpu-0")])
        m.servers[0].die()
        await eventually(lambda: m.servers[0].ended, what="the dead server is cleared away")
        replica = await m.until("cpu-0", ReplicaState.DRAINING, "light")
        assert replica.in_flight == 0
        await m.cluster.act([start("heavy", "cpu-0")])
        await m.until("cpu-0", ReplicaState.READY, "heavy")
        assert [server.model for server in m.servers] == [LIGHT.weights.model, HEAVY.weights.model]


async def test_a_slot_that_cannot_start_says_why_and_recovers() -> None:
    async with machine() as m:
        m.start_error = "no Triton environment"
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.FAILED, "light")
        assert m.cluster.problem == "cpu-0 (light): no Triton environment"
        m.start_error = None
        await m.until("cpu-0", ReplicaState.READY, "light")
        assert m.cluster.problem is None


async def test_closing_ends_every_server() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.cluster.act([start("heavy")])
        await m.until("cpu-1", ReplicaState.READY, "heavy")
    assert all(server.ended for server in m.servers)
