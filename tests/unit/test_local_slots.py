"""A slot has its agent host what is wished of it, and shows what the agent says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from cascade_api.variants import Variant
from cascade_operator.agent_reports import AgentFailed, Hosted, Report
from cascade_operator.local.driver import LocalCluster
from cascade_operator.local.slots import Assignment
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
from support.factories import make_cascade, make_profile
from support.waiting import eventually

POOL = PoolRef("default", "cpu", "shapes")
OTHER = PoolRef("default", "cpu", "other")
CASCADE, PROFILE = make_cascade(), make_profile()
LIGHT, HEAVY = CASCADE.spec.variants
QUICK = HEAVY.model_copy(update={"name": "quick", "settings": HEAVY.settings.model_copy(update={"steps": 8})})
CASCADE = CASCADE.model_copy(update={"spec": CASCADE.spec.model_copy(update={"variants": [LIGHT, HEAVY, QUICK]})})


class FakeChild:
    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.started = time.monotonic()


class FakeAgent:
    """An agent that hosts what it is told at once, until a test has it `show` something else."""

    def __init__(self, endpoint: str) -> None:
        self.child = FakeChild()
        self.told: list[Mapping[str, Any]] = []
        self.ended = False
        self._endpoint = endpoint
        self._report = Report(0, endpoint, "", 0, {})
        self._changed = asyncio.Condition()

    async def host(self, document: Mapping[str, Any]) -> Report:
        self.told.append(document)
        hosts = {model_of(entry): Hosted("ready", "", 0) for entry in document["variants"]}
        await self.show(endpoint=self._endpoint, problem="", hosts=hosts)
        return self._report

    async def next_report(self, last: Report) -> Report:
        async with self._changed:
            await self._changed.wait_for(lambda: self._report.number != last.number)
        return self._report

    async def show(self, **changes: Any) -> None:
        """Report something else."""
        async with self._changed:
            self._report = replace(self._report, number=self._report.number + 1, **changes)
            self._changed.notify_all()

    async def show_host(self, variant: Variant, state: str, message: str = "", failures: int = 0) -> None:
        await self.show(hosts={**self._report.hosts, variant.weights.model: Hosted(state, message, failures)})

    def check_running(self) -> None:
        if self.child.ended.done():
            raise AgentFailed("its agent ended (killed by SIGKILL)")

    def die(self) -> None:
        self.child.ended.set_result(-9)

    async def end(self) -> None:
        self.ended = True

    @property
    def names(self) -> list[list[str]]:
        """The variants of every list that it was told."""
        return [[entry["name"] for entry in told["variants"]] for told in self.told]


def model_of(entry: Mapping[str, Any]) -> str:
    return CASCADE.spec.variant(entry["name"]).weights.model


class Machine:
    """A local cluster on fake agents."""

    def __init__(self) -> None:
        self.agents: list[FakeAgent] = []
        self.start_error: str | None = None
        self.said: list[str] = []
        self.cluster: LocalCluster

    async def start_agent(self, slot_id: str) -> FakeAgent:
        if self.start_error:
            raise AgentFailed(self.start_error)
        self.agents.append(FakeAgent(f"127.0.0.1:{9000 + len(self.agents)}"))
        return self.agents[-1]

    def assignment_of(self, pool: PoolRef, weights: Sequence[str]) -> Assignment:
        return Assignment.of(pool, [(CASCADE, PROFILE)], weights)

    async def worker(self, slot_id: str = "cpu-0") -> Worker | None:
        return next((worker for worker in await self.cluster.workers() if worker.id == slot_id), None)

    async def until(self, *hosts: tuple[Variant, HostState], state: WorkerState, slot_id: str = "cpu-0") -> Worker:
        """The worker as soon as it has this state and these hosts, in this order."""
        wanted = [(variant.weights.digest, host) for variant, host in hosts]

        async def there() -> Worker | None:
            worker = await self.worker(slot_id)
            if worker is None or worker.state is not state:
                return None
            return worker if [(host.weights, host.state) for host in worker.hosts] == wanted else None

        return await eventually(there, what=f"{slot_id} {state} with {wanted}")

    async def serving(self, *variants: Variant, slot_id: str = "cpu-0") -> Worker:
        hosts = [(variant, HostState.READY) for variant in variants]
        return await self.until(*hosts, state=WorkerState.READY, slot_id=slot_id)


@asynccontextmanager
async def machine(slot_count: int = 1) -> AsyncIterator[Machine]:
    m = Machine()
    m.cluster = LocalCluster(
        slots=slot_count,
        assignment_of=m.assignment_of,
        start_agent=m.start_agent,
        changed=lambda: None,
        say=m.said.append,
    )
    try:
        yield m
    finally:
        await m.cluster.close()


def start(*variants: Variant) -> StartWorker:
    return StartWorker(POOL, "cpu", tuple(variant.weights.digest for variant in variants))


def load(variant: Variant, slot_id: str = "cpu-0") -> Load:
    return Load(slot_id, variant.weights.digest)


def unload(variant: Variant, slot_id: str = "cpu-0") -> Unload:
    return Unload(slot_id, variant.weights.digest)


async def test_a_start_takes_a_free_slot_and_becomes_ready() -> None:
    async with machine(2) as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        worker = await m.worker()
        assert worker is not None
        assert worker.state is WorkerState.STARTING
        assert worker.hosting(HostState.LOADING) == (LIGHT.weights.digest,)
        ready = await m.serving(LIGHT)
        assert (ready.endpoint, ready.pool) == ("127.0.0.1:9000", POOL)
        assert await m.cluster.inventory() == {"cpu": 2}


async def test_starts_beyond_the_slots_or_of_another_class_do_nothing() -> None:
    async with machine(1) as m:
        await m.cluster.act(POOL, [StartWorker(POOL, "nvidia-l40s", (LIGHT.weights.digest,))])
        assert await m.cluster.workers() == ()
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.cluster.act(POOL, [start(HEAVY)])
        assert [worker.hosting(*HostState) for worker in await m.cluster.workers()] == [(LIGHT.weights.digest,)]


async def test_weights_are_replaced_in_the_same_agent_by_one_list() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        await m.cluster.act(POOL, [unload(LIGHT), load(HEAVY)])
        await m.serving(HEAVY)
        (agent,) = m.agents
        assert agent.names[-2:] == [["light"], ["heavy", "quick"]], (
            "all variants of the weights, so that all can be served"
        )
        assert not agent.told[-1]["room"], "what goes is unloaded first"


async def test_weights_are_loaded_beside_others_and_unloaded_while_these_serve() -> None:
    async with machine(1) as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        await m.cluster.act(POOL, [load(HEAVY)])
        await m.serving(LIGHT, HEAVY)
        await m.cluster.act(POOL, [unload(LIGHT)])
        await m.serving(HEAVY)
        assert m.agents[0].names[-3:] == [["light"], ["light", "heavy", "quick"], ["heavy", "quick"]]


async def test_what_an_agent_still_has_is_shown_as_going() -> None:
    async with machine(1) as m:
        await m.cluster.act(POOL, [start(HEAVY)])
        await m.serving(HEAVY)
        await m.agents[0].show_host(LIGHT, "unloading")
        await m.until((HEAVY, HostState.READY), (LIGHT, HostState.UNLOADING), state=WorkerState.READY)


async def test_a_model_that_its_agent_mends_is_loading_meanwhile_and_the_others_serve() -> None:
    async with machine(1) as m:
        await m.cluster.act(POOL, [start(HEAVY, LIGHT)])
        since = (await m.serving(HEAVY, LIGHT)).hosts[0].since_s
        await m.agents[0].show_host(LIGHT, "loading", "stub process is not healthy")
        mending = await m.until((HEAVY, HostState.READY), (LIGHT, HostState.LOADING), state=WorkerState.READY)
        assert mending.hosts[0].since_s == since
        await m.agents[0].show_host(LIGHT, "ready")
        await m.serving(HEAVY, LIGHT)
        assert [line.split(" after")[0] for line in m.said] == [
            "cpu-0: light does not work (stub process is not healthy): its agent sees to it",
            "cpu-0: light is back",
        ]


async def test_moves_may_be_repeated() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        since = (await m.serving(LIGHT)).since_s
        for _ in range(3):
            await m.cluster.act(POOL, [load(LIGHT), unload(HEAVY)])
        assert (await m.serving(LIGHT)).since_s == since
        for _ in range(2):
            await m.cluster.act(POOL, [StopWorker("cpu-0")])
        await eventually(lambda: m.agents[0].names[-1] == [], what="the agent to be told nothing")
        assert await m.cluster.workers() == ()
        assert [agent.ended for agent in m.agents] == [False]


async def test_a_draining_worker_can_be_called_back() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        await m.cluster.act(POOL, [DrainWorker("cpu-0")])
        await m.until((LIGHT, HostState.READY), state=WorkerState.DRAINING)
        await m.cluster.act(POOL, [load(LIGHT)])
        await m.serving(LIGHT)
        assert len(m.agents) == 1


async def test_another_pools_worker_is_out_of_reach() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        await m.cluster.act(OTHER, [DrainWorker("cpu-0"), StopWorker("cpu-0"), load(HEAVY)])
        assert (await m.serving(LIGHT)).pool == POOL


async def test_a_dead_agent_is_replaced() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        m.agents[0].die()
        await eventually(lambda: len(m.agents) == 2, what="a second agent")
        assert (await m.serving(LIGHT)).endpoint == "127.0.0.1:9001"
        assert m.agents[0].ended
        assert any("killed by SIGKILL" in line for line in m.said)


async def test_a_server_that_its_agent_replaces_is_reached_under_its_new_name() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        await m.agents[0].show(endpoint=None, problem="its server ended (killed by SIGKILL)", hosts={})
        await m.until((LIGHT, HostState.LOADING), state=WorkerState.STARTING)
        hosts = {LIGHT.weights.model: Hosted("ready", "", 0)}
        await m.agents[0].show(endpoint="127.0.0.1:9500", problem="", hosts=hosts)
        assert (await m.serving(LIGHT)).endpoint == "127.0.0.1:9500"
        assert len(m.agents) == 1
        assert "its server ended (killed by SIGKILL)" in m.said[0]


async def test_a_server_that_dies_while_draining_has_nothing_in_flight() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.serving(LIGHT)
        await m.cluster.act(POOL, [DrainWorker("cpu-0")])
        m.agents[0].die()
        await eventually(lambda: m.agents[0].ended, what="the dead agent is cleared away")
        worker = await m.until((LIGHT, HostState.LOADING), state=WorkerState.DRAINING)
        assert worker.in_flight == {}
        assert len(m.agents) == 1, "nobody needs another one yet"
        await m.cluster.act(POOL, [unload(LIGHT), load(HEAVY)])
        await m.serving(HEAVY)


async def test_weights_that_cannot_be_loaded_fail_by_variant_and_message_and_the_others_serve() -> None:
    async with machine() as m:
        await m.cluster.act(POOL, [start(HEAVY, LIGHT)])
        await m.serving(HEAVY, LIGHT)
        await m.agents[0].show_host(HEAVY, "failed", "out of memory", failures=1)
        await m.until((HEAVY, HostState.LOADING), (LIGHT, HostState.READY), state=WorkerState.READY)
        await m.agents[0].show_host(HEAVY, "failed", "out of memory", failures=4)
        await m.until((HEAVY, HostState.FAILED), (LIGHT, HostState.READY), state=WorkerState.READY)
        words = "cpu-0 (heavy, quick, light): heavy, quick: its model cannot be loaded: out of memory"
        assert m.cluster.problem == words
        await m.agents[0].show_host(HEAVY, "ready")
        await m.serving(HEAVY, LIGHT)
        assert m.cluster.problem is None


async def test_a_slot_that_cannot_start_says_why_and_recovers() -> None:
    async with machine() as m:
        m.start_error = "no Triton environment"
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.until((LIGHT, HostState.LOADING), state=WorkerState.FAILED)
        assert m.cluster.problem == "cpu-0 (light): no Triton environment"
        m.start_error = None
        await m.serving(LIGHT)
        assert m.cluster.problem is None


async def test_a_slot_that_cannot_start_stays_failed_however_often_it_is_told_the_same() -> None:
    async with machine() as m:
        m.start_error = "no Triton environment"
        await m.cluster.act(POOL, [start(LIGHT, HEAVY)])
        await eventually(lambda: m.cluster.problem is not None, what="a problem")
        await m.cluster.act(POOL, [load(LIGHT), load(HEAVY)])
        assert m.cluster.problem is not None
        worker = await m.worker()
        assert worker is not None
        assert worker.state is WorkerState.FAILED


async def test_closing_ends_every_server() -> None:
    async with machine(2) as m:
        await m.cluster.act(POOL, [start(LIGHT)])
        await m.cluster.act(POOL, [start(HEAVY)])
        await m.serving(HEAVY, slot_id="cpu-1")
    assert all(server.ended for server in m.agents)
