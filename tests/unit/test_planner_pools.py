"""Cascades that share the workers of a WorkerPool: what is planned for them, what workers host, and what moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType, Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_api.status import CascadeStatus
from cascade_api.workers import WorkerPool
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.snapshot import (
    Action,
    Demand,
    DrainWorker,
    Host,
    HostState,
    Load,
    PoolRef,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)
from support.factories import make_cascade, make_profile, make_view

NOW = 1_760_000_000.0
POOL = PoolRef("default", "slots")
WEIGHTS_MIB = 100


def pool_of(**spec: Any) -> WorkerPool:
    document = {"class": "cpu", "workers": {"max": 4}, **spec}
    return WorkerPool.model_validate({"metadata": {"name": "slots"}, "spec": document})


def on_pool(name: str, *, pool: WorkerPool, most: int = 4, **fields: Any) -> DiffusionCascade:
    """A cascade of two weights of its own on the pool."""
    model = {kind: {"source": f"hf://test/{name}-{kind}", "revision": "1"} for kind in ("light", "heavy")}
    workers = [{"pool": "slots", "max": most}]
    cascade = make_cascade(name, workers=workers, light__model=model["light"], heavy__model=model["heavy"], **fields)
    return cascade.model_copy(update={"spec": cascade.spec.on_pools({"slots": pool.spec})})


@dataclass
class World:
    """Cascades on a pool whose workers do at once what they are told."""

    cascades: list[DiffusionCascade]
    pool: WorkerPool = field(default_factory=pool_of)
    rates: Mapping[str, float] = field(default_factory=dict)
    """Requests per second by cascade; 10 where it is absent."""
    accelerators: int = 4
    holds: int = 0
    """Weights that a worker has memory for; 0: all."""
    missing_profiles: Sequence[str] = ()
    workers: dict[str, Worker] = field(default_factory=dict)
    plans: dict[CascadeRef, Plan] = field(default_factory=dict)
    statuses: dict[CascadeRef, CascadeStatus] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    moves: list[Action] = field(default_factory=list)
    now: float = NOW

    def __post_init__(self) -> None:
        memory_mib = self.holds * WEIGHTS_MIB
        self._planner = Planner(
            PlannerSettings(), classes=[AcceleratorClass(name="cpu", resource="cpu", memory_mi_b=memory_mib)]
        )
        weighs = [{"variant": name, "class": "cpu", "restMiB": WEIGHTS_MIB} for name in ("light", "heavy")]
        self._profile = make_profile(memory=weighs)

    def tick(self, times: int = 1) -> Decision:
        for _ in range(times):
            decision = self._planner.decide(self._snapshot(), self.memory, self.now)
            self.memory = Memory.from_json(decision.memory.to_json())
            for action in decision.actions:
                self._obey(action)
            self.now = decision.next_at
        return decision

    def _snapshot(self) -> Snapshot:
        views = []
        for cascade in self.cascades:
            rate = self.rates.get(cascade.metadata.name, 10.0)
            second = int(self.now)
            counts = ((second - 60 + s, int(rate * (s + 1)) - int(rate * s)) for s in range(60))
            view = make_view(
                cascade=cascade,
                profile=self._profile,
                demand=Demand(tuple(counts)),
                plan=self.plans.get(cascade.ref),
                queue_depths={},
            )
            if cascade.metadata.name in self.missing_profiles:
                view = replace(view, profile=None)
            views.append(replace(view, status=self.statuses.get(cascade.ref)))
        workers = tuple(self.workers.values())
        return Snapshot(tuple(views), {"cpu": self.accelerators}, workers, pools=(self.pool,))

    def _obey(self, action: Action) -> None:
        match action:
            case Publish(plan):
                self.plans[plan.ref] = plan
                return
            case SetStatus(ref, status):
                self.statuses[ref] = status
                return
            case StartWorker():
                name = f"worker-{len(self.moves)}"
                hosts = tuple(Host(digest, HostState.READY, self.now) for digest in action.weights)
                state, since_s = WorkerState.READY, self.now
                self.workers[name] = Worker(name, action.pool, "cpu", f"{name}:8001", state, since_s, hosts, {})
            case DrainWorker(name):
                self.workers[name] = replace(self.workers[name], state=WorkerState.DRAINING, since_s=self.now)
            case StopWorker(name):
                del self.workers[name]
            case Load(name, weights):
                worker = self.workers[name]
                host = Host(weights, HostState.READY, self.now)
                self.workers[name] = replace(worker, state=WorkerState.READY, hosts=(*worker.hosts, host))
            case Unload(name, weights):
                worker = self.workers[name]
                left = tuple(host for host in worker.hosts if host.weights != weights)
                self.workers[name] = replace(worker, hosts=left)
        self.moves.append(action)

    def plan_of(self, name: str) -> Plan:
        return self.plans[CascadeRef("default", name)]

    @property
    def hosted(self) -> Counter[str]:
        """Workers by the weights that they host."""
        return Counter(digest for worker in self.workers.values() for digest in worker.hosting(HostState.READY))


def weights_of(cascade: DiffusionCascade) -> set[str]:
    return {variant.weights.digest for variant in cascade.spec.variants}


def heavy_share(plan: Plan) -> float:
    return sum(row.share * row.heavy_share for row in plan.rows)


def three(pool: WorkerPool | None = None, **fields: Any) -> list[DiffusionCascade]:
    return [on_pool(name, pool=pool or pool_of(), **fields) for name in ("anna", "bert", "carl")]


def test_all_cascades_of_a_pool_are_served_by_the_same_workers_which_host_all_of_their_weights() -> None:
    world = World(three())
    world.tick(6)
    everything = set().union(*map(weights_of, world.cascades))
    assert world.workers
    for worker in world.workers.values():
        assert worker.pool == POOL
        assert set(worker.hosting(HostState.READY)) == everything
    for cascade in world.cascades:
        plan = world.plans[cascade.ref]
        assert {worker.id for worker in plan.workers} == world.workers.keys()
        for told in plan.workers:
            assert set(told.hosts) == weights_of(cascade), "the weights of others are none of its business"
            assert set(told.credits) == {"light", "heavy"}


def test_a_pool_has_no_more_workers_than_all_of_its_cascades_together_gain_by() -> None:
    alone = World(three()[:1], rates={"anna": 30.0})
    alone.tick(6)
    together = World(three(), rates=dict.fromkeys(("anna", "bert", "carl"), 10.0))
    together.tick(6)
    assert len(together.workers) == len(alone.workers) < 3 * len(World(three()[:1]).tick(6) and alone.workers)


def test_the_time_of_a_pool_goes_to_where_it_is_worth_most() -> None:
    busy = dict.fromkeys(("anna", "bert", "carl"), 40.0)
    even = World(three(), rates=busy, accelerators=2)
    even.tick(6)
    shares = [heavy_share(even.plan_of(name)) for name in busy]
    assert min(shares) > 0
    assert max(shares) < 1
    assert max(shares) - min(shares) < 0.1
    pool = pool_of()
    weighty = [on_pool("anna", pool=pool, policy__weight=1000), *three()[1:]]
    world = World(weighty, rates=busy, accelerators=2)
    world.tick(6)
    assert heavy_share(world.plan_of("anna")) > shares[0] + 0.1
    assert heavy_share(world.plan_of("bert")) < shares[1] - 0.05


def test_a_cascade_gets_no_more_of_a_pool_than_its_ceiling() -> None:
    pool = pool_of()
    world = World([on_pool("anna", pool=pool, most=1), on_pool("bert", pool=pool)], rates={"anna": 60, "bert": 1})
    world.tick(8)
    alone = World([on_pool("anna", pool=pool)], rates={"anna": 60})
    alone.tick(8)
    assert heavy_share(world.plan_of("anna")) < heavy_share(alone.plan_of("anna")) - 0.1


@pytest.mark.parametrize("holds", [1, 2, 3, 4])
def test_where_memory_binds_no_worker_hosts_more_than_fits_and_every_cascade_is_served(holds: int) -> None:
    world = World(three(), holds=holds)
    world.tick(20)
    assert all(len(worker.hosts) <= holds for worker in world.workers.values())
    assert all(world.hosted[digest] for cascade in world.cascades for digest in weights_of(cascade) if holds > 1)
    for cascade in world.cascades:
        needed = {row.light for row in world.plans[cascade.ref].rows if row.direct < 1}
        assert {name for name in needed for w in world.plans[cascade.ref].workers if w.credits.get(name)} == needed
    moved = len(world.moves)
    world.tick(20)
    assert len(world.moves) == moved, "under a steady load nothing moves"


def test_workers_of_a_pool_with_dedicated_hosting_host_one_weights_each() -> None:
    pool = pool_of(hosting="dedicated")
    world = World([on_pool("anna", pool=pool), on_pool("bert", pool=pool)], pool=pool)
    world.tick(20)
    assert len(world.workers) == 4
    assert sorted(world.hosted.values()) == [1, 1, 1, 1]


def test_a_pool_keeps_within_its_bounds_its_budget_and_the_accelerators_that_others_leave() -> None:
    busy = dict.fromkeys(("anna", "bert", "carl"), 60.0)
    for pool, accelerators, count in (
        (pool_of(workers={"max": 2}), 4, 2),
        (pool_of(workers={"min": 3, "max": 4}), 4, 4),
        (pool_of(), 3, 3),
    ):
        world = World(three(pool), pool=pool, rates=busy, accelerators=accelerators)
        world.tick(8)
        assert len(world.workers) == count
    calm = World(three(), pool=pool_of(workers={"min": 3, "max": 4}), rates=dict.fromkeys(busy, 1.0))
    calm.tick(8)
    assert len(calm.workers) == 3
    own = make_cascade("dora", workers={"cpu": 2})
    for most, rest in ((2, 2), (4, 0)):
        pool = pool_of(workers={"max": most})
        mixed = World([*three(pool), own], pool=pool, rates={**busy, "dora": 60.0})
        mixed.tick(12)
        assert Counter(worker.pool.cascade for worker in mixed.workers.values()) == Counter({None: most, "dora": rest})


def test_the_weights_of_a_cascade_that_is_deleted_are_unloaded_and_no_worker_stops_for_it() -> None:
    pool = pool_of(workers={"min": 2, "max": 2})
    world = World(three(pool), pool=pool, accelerators=2)
    world.tick(6)
    gone = world.cascades.pop()
    before, moved = set(world.workers), len(world.moves)
    world.tick(4)
    assert world.workers.keys() == before
    assert not weights_of(gone) & world.hosted.keys()
    assert {type(move) for move in world.moves[moved:]} == {Unload}
    assert all(world.hosted[digest] == 2 for cascade in world.cascades for digest in weights_of(cascade))


def test_a_cascade_that_is_added_is_loaded_into_the_workers_that_are_there() -> None:
    pool = pool_of(workers={"min": 2, "max": 2})
    world = World(three(pool)[:2], pool=pool, accelerators=2)
    world.tick(6)
    before, moved = set(world.workers), len(world.moves)
    world.cascades.append(three(pool)[2])
    world.tick(6)
    assert world.workers.keys() == before
    assert {type(move) for move in world.moves[moved:]} == {Load}
    assert all(world.hosted[digest] == 2 for digest in weights_of(world.cascades[2]))
    assert world.plan_of("carl").workers


def test_a_pool_that_no_cascade_needs_is_emptied() -> None:
    world = World(three())
    world.tick(6)
    assert world.workers
    world.cascades.clear()
    world.tick(4)
    assert not world.workers


def test_a_pool_whose_cascades_are_all_idle_is_emptied_and_started_again() -> None:
    world = World(three(policy__scaleToZeroAfter="5m"), rates={})
    world.tick(4)
    world.rates = dict.fromkeys(("anna", "bert", "carl"), 0.0)
    world.now += 600
    world.tick(6)
    assert not world.workers
    assert all(plan.parked for plan in world.plans.values())
    world.rates = {"anna": 5.0, "bert": 0.0, "carl": 0.0}
    world.tick(6)
    assert world.workers
    assert not world.plan_of("anna").parked
    assert weights_of(world.cascades[0]) == set(world.hosted), "what nobody asks for is not loaded"


def test_a_cascade_that_cannot_be_planned_now_keeps_a_host_of_what_its_plan_needs() -> None:
    world = World(three(), holds=3)
    world.tick(10)
    world.missing_profiles = ["anna"]
    world.tick(20)
    plan = world.plan_of("anna")
    needed = {plan.variants[row.light].weights for row in plan.rows if row.direct < 1}
    assert all(world.hosted[digest] for digest in needed)
    condition = world.statuses[CascadeRef("default", "anna")].condition(ConditionType.ACCEPTED)
    assert condition is not None
    assert condition.reason is Reason.PROFILE_MISSING
    assert all(world.plan_of(name).workers for name in ("bert", "carl"))


def test_the_cost_of_a_pool_is_attributed_to_its_cascades_by_their_part_of_it() -> None:
    world = World(three(), rates={"anna": 40.0, "bert": 10.0, "carl": 1.0})
    world._planner = Planner(
        PlannerSettings(), classes=[AcceleratorClass(name="cpu", resource="cpu", price_per_hour="2.00")]
    )
    world.tick(8)
    costs = [float(world.statuses[cascade.ref].cost_per_hour) for cascade in world.cascades]
    assert sum(costs) == pytest.approx(2.0 * len(world.workers), abs=0.02)
    assert costs[0] > costs[1] > costs[2]


def test_no_cascade_can_use_pools_of_its_own_beside_a_worker_pool_so_far() -> None:
    cascade = make_cascade(workers=[{"pool": "slots", "max": 2}, {"name": "own", "class": "gpu", "max": 1}])
    cascade = cascade.model_copy(update={"spec": cascade.spec.on_pools({"slots": pool_of().spec})})
    world = World([cascade])
    spec, other = make_profile().spec, make_profile(accelerator_class="gpu").spec
    both = {part: [*getattr(spec, part), *getattr(other, part)] for part in ("execution", "discriminator", "startup")}
    world._profile = world._profile.model_copy(update={"spec": spec.model_copy(update=both)})
    world.tick()
    condition = world.statuses[cascade.ref].condition(ConditionType.ACCEPTED)
    assert condition is not None
    assert condition.reason is Reason.INVALID_SPEC
    assert condition.message.startswith("spec.workers: a cascade with hosting: shared, or on a WorkerPool")
