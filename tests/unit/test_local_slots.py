"""A slot has its agent host what is wished of it, and shows what the agent says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from cascade_api.names import CascadeRef
from cascade_operator.local.agents import AgentFailed, Hosted, Report
from cascade_operator.local.driver import LocalCluster
from cascade_operator.local.slots import Assignment
from cascade_operator.snapshot import Drain, Replica, ReplicaState, Start, Stop
from support.factories import make_cascade, make_profile
from support.waiting import eventually

REF = CascadeRef("default", "shapes")
OTHER = CascadeRef("default", "other")
CASCADE, PROFILE = make_cascade(), make_profile()
LIGHT, HEAVY = CASCADE.spec.variants
QUICK = HEAVY.model_copy(update={"name": "quick", "settings": HEAVY.settings.model_copy(update={"steps": 8})})
CASCADE = CASCADE.model_copy(update={"spec": CASCADE.spec.model_copy(update={"variants": [LIGHT, HEAVY, QUICK]})})
LIGHT_MODEL, HEAVY_MODEL = LIGHT.weights.model, HEAVY.weights.model
BOTH = "heavy+light"


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

    async def show_host(self, model: str, state: str, message: str = "", failures: int = 0) -> None:
        await self.show(hosts={**self._report.hosts, model: Hosted(state, message, failures)})

    def check_running(self) -> None:
        if self.child.ended.done():
            raise AgentFailed("its agent ended (killed by SIGKILL)")

    def die(self) -> None:
        self.child.ended.set_result(-9)

    async def end(self) -> None:
        self.ended = True


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

    def assignment_of(self, ref: CascadeRef, serves: str) -> Assignment:
        return replace(Assignment.of(CASCADE, PROFILE, serves), cascade=ref)

    async def replica(self, slot_id: str, ref: CascadeRef = REF) -> Replica | None:
        return next((r for r in await self.cluster.replicas(ref) if r.id == slot_id), None)

    async def until(self, slot_id: str, state: ReplicaState, variant: str) -> Replica:
        async def there() -> Replica | None:
            replica = await self.replica(slot_id)
            return replica if replica and (replica.state, replica.variant) == (state, variant) else None

        return await eventually(there, what=f"{slot_id} {state} with {variant}")


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


def start(variant: str, slot_id: str | None = None, ref: CascadeRef = REF) -> Start:
    return Start(ref, slot_id, "cpu", variant)


async def test_a_start_takes_a_free_slot_and_becomes_ready() -> None:
    async with machine(2) as m:
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


async def test_a_drained_replica_is_told_another_list_in_the_same_agent() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(REF, "cpu-0")])
        await m.until("cpu-0", ReplicaState.DRAINING, "light")
        await m.cluster.act([start("heavy", "cpu-0")])
        await m.until("cpu-0", ReplicaState.READY, "heavy")
        (agent,) = m.agents
        lists = [[entry["name"] for entry in told["variants"]] for told in agent.told]
        assert [names for names in lists if names] == [["light"], ["heavy", "quick"]]
        assert not agent.told[-1]["room"]


async def test_a_worker_of_a_shared_pool_hosts_the_weights_of_all_variants() -> None:
    async with machine(1) as m:
        await m.cluster.act([start(BOTH)])
        replica = await m.until("cpu-0", ReplicaState.READY, BOTH)
        assert replica.variants == ("heavy", "light")
        told = m.agents[0].told[-1]
        assert [entry["name"] for entry in told["variants"]] == ["heavy", "light", "quick"]
        assert told["room"]
        await m.agents[0].show_host(LIGHT_MODEL, "loading", "stub process is not healthy")
        await m.until("cpu-0", ReplicaState.STARTING, BOTH)
        await m.agents[0].show_host(LIGHT_MODEL, "ready")
        await m.until("cpu-0", ReplicaState.READY, BOTH)
        assert [line.split(" after")[0] for line in m.said] == [
            "cpu-0: light does not work (stub process is not healthy): its agent sees to it",
            "cpu-0: light is back",
        ]


async def test_a_variant_of_the_same_weights_is_served_at_once() -> None:
    async with machine() as m:
        await m.cluster.act([start("heavy")])
        await m.until("cpu-0", ReplicaState.READY, "heavy")
        await m.cluster.act([Drain(REF, "cpu-0")])
        await m.cluster.act([start("quick", "cpu-0")])
        replica = await m.replica("cpu-0")
        assert replica is not None
        assert (replica.variant, replica.state) == ("quick", ReplicaState.READY)
        told = m.agents[0].told
        await eventually(lambda: told[-1]["variants"][0]["name"] == "quick", what="the agent to be told")
        assert [entry["name"] for entry in told[-1]["variants"]] == ["quick", "heavy"], "it proves itself by the first"


async def test_actions_may_be_repeated() -> None:
    async with machine(2) as m:
        for _ in range(3):
            await m.cluster.act([start("light", "cpu-1")])
        await m.until("cpu-1", ReplicaState.READY, "light")
        since = (await m.until("cpu-1", ReplicaState.READY, "light")).since_s
        await m.cluster.act([start("light", "cpu-1")])
        assert (await m.until("cpu-1", ReplicaState.READY, "light")).since_s == since
        for _ in range(2):
            await m.cluster.act([Stop(REF, "cpu-1")])
        await eventually(lambda: m.agents[1].told[-1] == {"variants": []}, what="the agent to be told nothing")
        assert await m.cluster.replicas(REF) == ()
        assert [agent.ended for agent in m.agents] == [False, False]


async def test_a_draining_replica_can_be_called_back() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(REF, "cpu-0")])
        await m.cluster.act([start("light", "cpu-0")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        assert len(m.agents) == 1


async def test_another_cascades_replica_is_out_of_reach() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(OTHER, "cpu-0")])
        await m.cluster.act([Stop(OTHER, "cpu-0")])
        await m.cluster.act([start("heavy", "cpu-0", OTHER)])
        assert await m.cluster.replicas(OTHER) == ()
        await m.until("cpu-0", ReplicaState.READY, "light")


async def test_a_dead_agent_is_replaced() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        m.agents[0].die()
        await eventually(lambda: len(m.agents) == 2, what="a second agent")
        replica = await m.until("cpu-0", ReplicaState.READY, "light")
        assert replica.endpoint == "127.0.0.1:9001"
        assert m.agents[0].ended
        assert any("killed by SIGKILL" in line for line in m.said)


async def test_a_server_that_its_agent_replaces_is_reached_under_its_new_name() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.agents[0].show(endpoint=None, problem="its server ended (killed by SIGKILL)", hosts={})
        await m.until("cpu-0", ReplicaState.STARTING, "light")
        await m.agents[0].show(endpoint="127.0.0.1:9500", problem="", hosts={LIGHT_MODEL: Hosted("ready", "", 0)})
        assert (await m.until("cpu-0", ReplicaState.READY, "light")).endpoint == "127.0.0.1:9500"
        assert len(m.agents) == 1
        assert "its server ended (killed by SIGKILL)" in m.said[0]


async def test_a_server_that_dies_while_draining_has_nothing_in_flight() -> None:
    async with machine() as m:
        await m.cluster.act([start("light")])
        await m.until("cpu-0", ReplicaState.READY, "light")
        await m.cluster.act([Drain(REF, "cpu-0")])
        m.agents[0].die()
        await eventually(lambda: m.agents[0].ended, what="the dead agent is cleared away")
        replica = await m.until("cpu-0", ReplicaState.DRAINING, "light")
        assert replica.in_flight == 0
        assert len(m.agents) == 1, "nobody needs another one yet"
        await m.cluster.act([start("heavy", "cpu-0")])
        await m.until("cpu-0", ReplicaState.READY, "heavy")


async def test_weights_that_cannot_be_loaded_fail_the_slot_by_variant_and_message() -> None:
    async with machine() as m:
        await m.cluster.act([start(BOTH)])
        await m.until("cpu-0", ReplicaState.READY, BOTH)
        await m.agents[0].show_host(HEAVY_MODEL, "failed", "out of memory", failures=1)
        await m.until("cpu-0", ReplicaState.STARTING, BOTH)
        await m.agents[0].show_host(HEAVY_MODEL, "failed", "out of memory", failures=4)
        await m.until("cpu-0", ReplicaState.FAILED, BOTH)
        assert m.cluster.problem == f"cpu-0 ({BOTH}): heavy: its model cannot be loaded: out of memory"
        await m.agents[0].show_host(HEAVY_MODEL, "ready")
        await m.until("cpu-0", ReplicaState.READY, BOTH)
        assert m.cluster.problem is None


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
    async with machine(2) as m:
        await m.cluster.act([start("light")])
        await m.cluster.act([start("heavy")])
        await m.until("cpu-1", ReplicaState.READY, "heavy")
    assert all(server.ended for server in m.agents)
