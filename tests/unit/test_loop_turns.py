"""The loop collects, decides and acts. Whatever fails, the last plan stays valid and is put in force again."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from cascade_api.documents import CascadeFile
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan, is_credible
from cascade_api.reasons import ConditionType, Reason
from cascade_api.report import RouterReport
from cascade_api.settings import PlannerSettings
from cascade_api.status import CascadeStatus, WorkerPoolStatus
from cascade_api.workers import WorkerPool
from cascade_operator.clusters import ClusterFailed
from cascade_operator.local.reporter import LocalReporter
from cascade_operator.loop import Loop
from cascade_operator.planning.arrivals import ArrivalRate
from cascade_operator.planning.memory import CascadeMemory, Memory, Slowdown, Target, TargetPool
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.snapshot import (
    DrainWorker,
    HostState,
    Load,
    Move,
    PoolRef,
    Publish,
    Snapshot,
    StartWorker,
    StopWorker,
    Worker,
    WorkerState,
)
from cascade_operator.sources import FileSource, PoolSubject, Refused, Source, Subject
from cascade_operator.store import Observation
from support.factories import make_cascade, make_demand, make_profile, make_worker, weights_of
from support.waiting import PATIENCE_S, eventually

NOW = 1_700_000_000.0
REF = CascadeRef("default", "shapes")
FILE = CascadeFile(cascades=[make_cascade()], profiles=[make_profile()])


@dataclass
class FakeStore:
    """Redis as the loop sees it; ``away`` answers like a server that is not there."""

    plan: Plan | None = None
    memory: str | None = None
    in_use: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    away: bool = False
    plans: list[Plan] = field(default_factory=list)
    index: set[CascadeRef] = field(default_factory=set)
    reports: tuple[RouterReport, ...] = ()
    listed: bool = True

    async def observe(self, ref: CascadeRef, pools: Sequence[str]) -> Observation | None:
        if self.away:
            return None
        return Observation(
            plan=self.plan,
            demand=make_demand(1.0, now=NOW),
            queue_depths=dict.fromkeys(pools, 0),
            in_use=self.in_use,
            memory=self.memory,
            reports=self.reports,
            listed=self.listed,
        )

    async def publish(self, plan: Plan) -> bool:
        if self.away:
            return False
        self.plan = plan
        self.listed = True
        self.plans.append(plan)
        return True

    async def save_memory(self, ref: CascadeRef, memory: str) -> bool:
        self.memory = memory
        return not self.away

    async def published(self) -> frozenset[CascadeRef]:
        return frozenset() if self.away else frozenset(self.index)

    async def forget(self, ref: CascadeRef) -> bool:
        if self.away:
            return False
        self.index.discard(ref)
        self.plan = self.memory = None
        return True


VARIANT_OF = {weights_of(name)[0]: name for name in ("light", "heavy")}


@dataclass
class FakeCluster:
    """Workers that are ready the moment they are started."""

    all: dict[str, Worker] = field(default_factory=dict)
    reconciled: int = 0

    async def inventory(self) -> Mapping[str, int] | None:
        return {"cpu": 2}

    async def workers(self) -> tuple[Worker, ...]:
        return tuple(self.all.values())

    async def reconcile(self, subjects: Sequence[Subject], pools: Sequence[PoolSubject]) -> None:
        self.reconciled += 1

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        for move in moves:
            match move:
                case StartWorker():
                    name = f"cpu-{len(self.all)}"
                    variants = [VARIANT_OF[weights] for weights in move.weights]
                    started = make_worker(name, *variants, in_flight=None)
                    self.all[name] = dataclasses.replace(started, pool=pool)
                case Load():
                    self.all[move.worker] = make_worker(move.worker, VARIANT_OF[move.weights], in_flight=None)
                case DrainWorker():
                    self.all[move.worker] = dataclasses.replace(self.all[move.worker], state=WorkerState.DRAINING)
                case StopWorker():
                    del self.all[move.worker]

    async def close(self) -> None: ...


@dataclass
class World:
    """A loop on fakes, with a clock that stands still unless told."""

    store: FakeStore = field(default_factory=FakeStore)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    decide: Callable[..., Decision] = field(default_factory=lambda: Planner(PlannerSettings()).decide)
    source: Source = field(default_factory=lambda: FileSource(FILE))
    now: float = NOW
    said: list[str] = field(default_factory=list)
    statuses: list[CascadeStatus] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = Loop(
            self.source,
            cluster=self.cluster,
            store=self.store,  # type: ignore[arg-type]
            decide=self.decide,
            reporter=LocalReporter(say=self.said.append, keep_status=lambda ref, status: self.statuses.append(status)),
            clock=lambda: self.now,
        )

    async def ticks(self, count: int) -> None:
        for _ in range(count):
            self.now = await self.loop.tick()


async def test_a_cascade_comes_up_and_its_plan_is_published_and_told() -> None:
    world = World()
    await world.ticks(3)
    plan = world.loop.plan(REF)
    assert plan is not None
    assert world.store.plan == plan
    hosted = {digest for worker in world.cluster.all.values() for digest in worker.hosting(*HostState)}
    assert hosted == set(weights_of("light", "heavy"))
    assert any(line.startswith("plan: InitialPlan: ") for line in world.said)
    assert world.statuses
    assert world.loop.status(REF) == world.statuses[-1]


async def test_a_redis_that_came_back_empty_gets_the_same_plan_again() -> None:
    world = World()
    await world.ticks(4)
    plan = world.loop.plan(REF)
    world.store.plan, world.store.memory = None, None
    told = list(world.said)
    await world.ticks(1)
    assert world.store.plan is not None
    assert plan is not None
    assert world.store.plan.generation >= plan.generation
    assert world.store.plan.rows == plan.rows
    assert world.said == told


def forged(plan: Plan, **changes: Any) -> Plan:
    return plan.model_copy(update={"rows": plan.rows, **changes})


@pytest.mark.parametrize("ahead", [1, 0, -1, 3_600_000])
async def test_a_plan_that_somebody_else_wrote_is_replaced_under_a_newer_number(ahead: int) -> None:
    world = World()
    await world.ticks(4)
    plan = world.loop.plan(REF)
    assert plan is not None
    world.store.plan = forged(plan, workers=[], generation=plan.generation + ahead)
    await world.ticks(1)
    assert world.store.plan.workers == plan.workers
    assert world.store.plan.generation > max(plan.generation, plan.generation + ahead)
    written = len(world.store.plans)
    await world.ticks(3)
    assert len(world.store.plans) == written, "what is as published is left alone"


@pytest.mark.parametrize("mode", ["paused", "advisory"])
async def test_the_plan_of_a_cascade_that_is_not_planned_for_is_left_as_it_is(mode: str) -> None:
    first = World()
    await first.ticks(4)
    plan = first.loop.plan(REF)
    assert plan is not None
    source = FileSource(CascadeFile(cascades=[make_cascade(policy__mode=mode)], profiles=[make_profile()]))
    world = World(source=source, store=first.store, cluster=first.cluster, now=first.now)
    await world.ticks(2)
    written = len(world.store.plans)
    world.store.plan = forged(plan, workers=[], generation=plan.generation + 1)
    await world.ticks(2)
    assert len(world.store.plans) == written
    assert world.loop.plan(REF) == world.store.plan
    world.store.plan = None
    await world.ticks(1)
    assert len(world.store.plans) == written + 1


async def test_routers_that_follow_a_plan_of_nobodys_are_called_back() -> None:
    world = World()
    await world.ticks(4)
    plan = world.loop.plan(REF)
    assert plan is not None
    number = plan.generation + 60_000
    world.store.reports = (RouterReport(router="r", at_ms=0, plan_generation=number, received=0),)
    await world.ticks(1)
    assert world.store.plan is not None
    assert world.store.plan.generation == number + 1
    world.store.reports = (RouterReport(router="r", at_ms=0, plan_generation=2**53, received=0),)
    await world.ticks(1)
    assert world.store.plan.generation == number + 1, "a number that no operator can have given is not outdone"


async def test_a_plan_that_new_routers_are_not_told_of_is_published_again() -> None:
    world = World()
    await world.ticks(4)
    written = len(world.store.plans)
    world.store.listed = False
    await world.ticks(1)
    assert len(world.store.plans) == written + 1
    assert world.store.listed


@pytest.mark.parametrize(
    "memory",
    [
        CascadeMemory(generation=2**63),
        CascadeMemory(published_at_s=NOW * 2),
        CascadeMemory(target=Target(demand=-1.0)),
        CascadeMemory(slowdowns=(Slowdown("light", "cpu", 1e300, NOW),)),
        CascadeMemory(arrivals=ArrivalRate(float("inf"), NOW)),
        CascadeMemory(target=Target((TargetPool("light", "cpu", -1, 1),))),
    ],
)
async def test_a_memory_beyond_belief_is_made_anew(memory: CascadeMemory) -> None:
    world = World(store=FakeStore(memory=Memory({str(REF): memory}).to_json()))
    await world.ticks(4)
    assert len(world.cluster.all) == 2
    assert world.store.plan is not None
    assert is_credible(world.store.plan.generation, now_s=world.now)


async def test_without_redis_the_plan_holds_and_nothing_is_moved() -> None:
    world = World()
    await world.ticks(4)
    plan, workers = world.loop.plan(REF), dict(world.cluster.all)
    world.store.away = True
    await world.ticks(5)
    assert world.loop.plan(REF) == plan
    assert world.cluster.all == workers


async def test_a_new_operator_takes_over_plan_and_memory() -> None:
    first = World()
    await first.ticks(4)
    plan = first.loop.plan(REF)
    assert plan is not None
    second = World(store=first.store, cluster=first.cluster, now=first.now)
    await second.ticks(1)
    taken = second.loop.plan(REF)
    assert taken is not None
    assert taken.generation >= plan.generation
    assert taken.workers == plan.workers


async def test_credits_in_use_are_the_requests_in_flight() -> None:
    seen: list[Snapshot] = []

    def watch(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        seen.append(snapshot)
        return Decision((), (), memory, now + 1)

    world = World(decide=watch, store=FakeStore(in_use={"light.cpu": {"cpu-1": 3}, "heavy.cpu": {"cpu-1": 1}}))
    dead = make_worker("cpu-2", "light", state="draining", in_flight=0)
    live = [make_worker(name, "light", in_flight=None) for name in ("cpu-0", "cpu-1")]
    world.cluster.all = {worker.id: worker for worker in (*live, dead)}
    await world.ticks(1)
    world.store.away = True
    await world.ticks(1)
    known, unknown = ({worker.id: worker.in_flight for worker in s.workers} for s in seen)
    light, heavy = (REF, "light"), (REF, "heavy")
    assert known == {"cpu-0": {light: 0, heavy: 0}, "cpu-1": {light: 3, heavy: 1}, "cpu-2": {light: 0}}
    assert unknown == {"cpu-0": None, "cpu-1": None, "cpu-2": {light: 0}}
    assert not seen[1].store_available


async def test_a_decision_that_fails_is_told_and_the_loop_goes_on() -> None:
    calls = 0

    def fails_once(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError("a bug")
        return Decision((), (), memory, now + 60)

    world = World(decide=fails_once)
    running = asyncio.create_task(world.loop.run())
    await eventually(lambda: world.said, what="it is told")
    assert "ZeroDivisionError: a bug" in world.said[0]
    world.loop.wake()
    await eventually(lambda: calls >= 2, what="the next decision")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_waking_brings_the_next_decision_forward() -> None:
    calls: list[float] = []

    def idle(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        calls.append(now)
        return Decision((), (), memory, now + 3600)

    world = World(decide=idle)
    running = asyncio.create_task(world.loop.run())
    await eventually(lambda: len(calls) >= 1, what="the first decision")
    world.loop.wake()
    await eventually(lambda: len(calls) >= 2, what="a second one at once")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_memory_is_written_only_when_it_changed() -> None:
    writes = 0
    memories = [Memory(), Memory(), Memory({str(REF): CascadeMemory(generation=7)})]

    def scripted(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        return Decision((), (), memories.pop(0), now + 1)

    class Counting(FakeStore):
        async def save_memory(self, ref: CascadeRef, memory: str) -> bool:
            nonlocal writes
            writes += 1
            return True

    world = World(decide=scripted, store=Counting())
    await world.ticks(3)
    assert writes == 1


async def test_shares_that_tremble_are_published_but_not_told() -> None:
    first = World()
    await first.ticks(3)
    plan = first.loop.plan(REF)
    assert plan is not None
    row = plan.rows[0]
    steps = [0.0, 0.02, 0.30]
    plans = [
        plan.model_copy(
            update={
                "generation": plan.generation + 1 + index,
                "rows": [row.model_copy(update={"escalation": 0.4 + step, "direct": 0.0, "share": 1.0})],
            }
        )
        for index, step in enumerate(steps)
    ]

    def scripted(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        return Decision((Publish(plans.pop(0)),), (), memory, now + 1)

    world = World(decide=scripted)
    await world.ticks(3)
    assert len(world.store.plans) == 3
    assert len([line for line in world.said if line.startswith("plan: ")]) == 2


@dataclass
class ChangingSource:
    """A source whose subjects the test changes."""

    found: Sequence[Subject | Refused] | None

    async def subjects(self) -> Sequence[Subject | Refused] | None:
        return self.found

    def pools(self) -> Sequence[PoolSubject]:
        return ()

    def owns(self, ref: CascadeRef) -> bool:
        return ref.namespace == "default"


async def test_a_deleted_cascade_is_withdrawn_as_soon_as_redis_is_there() -> None:
    source = ChangingSource([Subject(FILE.cascades[0], FILE.profiles[0])])
    world = World(source=source)
    await world.ticks(3)
    assert world.store.plan is not None
    source.found, world.store.away = [], True
    await world.ticks(1)
    assert world.store.plan is not None
    world.store.away = False
    await world.ticks(1)
    assert world.store.plan is None
    assert world.loop.plan(REF) is None


async def test_a_cascade_deleted_while_no_operator_was_there_is_withdrawn_and_others_are_left_alone() -> None:
    world = World(source=ChangingSource([]))
    stranger = CascadeRef("elsewhere", "shapes")
    world.store.index = {REF, stranger}
    await world.ticks(1)
    assert world.store.index == {stranger}


async def test_while_the_cascades_are_not_known_nothing_is_done() -> None:
    world = World(source=ChangingSource(None))
    world.store.index = {REF}
    assert await world.loop.tick() == NOW + 1
    assert world.store.index == {REF}
    assert world.cluster.all == {}


async def test_what_was_never_valid_is_told_once() -> None:
    world = World(source=ChangingSource([Refused(REF, 1, (Reason.INVALID_SPEC, "spec.x: wrong"))]))
    await world.ticks(3)
    (status,) = world.statuses
    accepted = status.condition(ConditionType.ACCEPTED)
    assert accepted is not None
    assert (accepted.status, accepted.message) == ("False", "spec.x: wrong")


async def test_a_move_that_the_cluster_refuses_is_tried_again_and_the_plan_is_published_all_the_same() -> None:
    world = World()
    act, refusals = world.cluster.act, 2

    async def refuse(pool: PoolRef, moves: Sequence[Move]) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise ClusterFailed("away")
        await act(pool, moves)

    world.cluster.act = refuse  # type: ignore[method-assign]
    await world.ticks(6)
    assert len(world.cluster.all) == 2
    assert world.loop.plan(REF) is not None


async def test_a_changed_spec_takes_effect_while_a_long_decision_is_made() -> None:
    release = threading.Event()

    def slow(snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        release.wait(PATIENCE_S)
        return Decision((), (), memory, now + 3600)

    world = World(decide=slow)
    running = asyncio.create_task(world.loop.run())
    try:
        await eventually(lambda: world.cluster.reconciled >= 1, what="the first tick")
        world.loop.wake()
        await eventually(lambda: world.cluster.reconciled >= 2, what="the change to take effect")
    finally:
        release.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_memory_that_redis_kept_is_taken_up_when_it_is_back() -> None:
    first = World()
    await first.ticks(4)
    second = World(store=first.store, cluster=first.cluster, now=first.now)
    second.store.away = True
    await second.ticks(2)
    second.store.away = False
    await second.ticks(1)
    kept = second.loop._memory.cascades[str(REF)]
    assert kept.target
    assert len(second.cluster.all) == 2


def world_on_a_pool() -> World:
    pool = WorkerPool.model_validate({"metadata": {"name": "slots"}, "spec": {"class": "cpu", "workers": {"max": 2}}})
    cascade = make_cascade(workers=[{"pool": "slots", "max": 2}])
    cascade = cascade.model_copy(update={"spec": cascade.spec.on_pools({"slots": pool.spec})})
    return World(source=FileSource(CascadeFile(cascades=[cascade], profiles=[make_profile()], pools=[pool])))


async def test_cascades_on_a_worker_pool_of_the_file_are_planned_and_their_workers_started_in_it() -> None:
    world = world_on_a_pool()
    await world.ticks(6)
    assert world.cluster.all
    assert {worker.pool for worker in world.cluster.all.values()} == {PoolRef("default", "slots")}
    assert world.store.plan is not None
    assert world.store.plan.workers


async def test_the_status_of_a_worker_pool_is_offered_until_it_is_taken_and_not_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_on_a_pool()
    offered: list[str] = []
    away = True

    async def take(reporter: LocalReporter, ref: PoolRef, status: WorkerPoolStatus) -> bool:
        offered.append(f"{ref.name} {status.workers}")
        return not away

    monkeypatch.setattr(LocalReporter, "pool_status", take)
    await world.ticks(6)
    assert offered[-2:] == ["slots 1/1"] * 2
    away = False
    await world.ticks(1)
    count = len(offered)
    await world.ticks(6)
    assert len(offered) == count
