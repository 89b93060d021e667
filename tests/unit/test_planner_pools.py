"""Cascades that share the workers of a WorkerPool: what is planned for them, what workers host, and what moves."""

from __future__ import annotations

from collections import Counter

import pytest

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType, Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_operator.planning.planner import Planner
from cascade_operator.snapshot import HostState, Load, Unload
from support.factories import make_cascade, make_profile
from support.pool_world import POOL, PoolWorld, on_pool, pool_of, three, weights_of


def heavy_share(plan: Plan) -> float:
    return sum(row.share * row.heavy_share for row in plan.rows)


def test_all_cascades_of_a_pool_are_served_by_the_same_workers_which_host_all_of_their_weights() -> None:
    world = PoolWorld(three())
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
    alone = PoolWorld(three()[:1], rates={"anna": 30.0})
    alone.tick(6)
    together = PoolWorld(three(), rates=dict.fromkeys(("anna", "bert", "carl"), 10.0))
    together.tick(6)
    assert len(together.workers) == len(alone.workers) < 3 * len(PoolWorld(three()[:1]).tick(6) and alone.workers)


def test_the_time_of_a_pool_goes_to_where_it_is_worth_most() -> None:
    busy = dict.fromkeys(("anna", "bert", "carl"), 40.0)
    even = PoolWorld(three(), rates=busy, accelerators=2)
    even.tick(6)
    shares = [heavy_share(even.plan_of(name)) for name in busy]
    assert min(shares) > 0
    assert max(shares) < 1
    assert max(shares) - min(shares) < 0.1
    pool = pool_of()
    weighty = [on_pool("anna", pool=pool, policy__weight=1000), *three()[1:]]
    world = PoolWorld(weighty, rates=busy, accelerators=2)
    world.tick(6)
    assert heavy_share(world.plan_of("anna")) > shares[0] + 0.1
    assert heavy_share(world.plan_of("bert")) < shares[1] - 0.05


def test_a_cascade_gets_no_more_of_a_pool_than_its_ceiling() -> None:
    pool = pool_of()
    world = PoolWorld([on_pool("anna", pool=pool, most=1), on_pool("bert", pool=pool)], rates={"anna": 60, "bert": 1})
    world.tick(8)
    alone = PoolWorld([on_pool("anna", pool=pool)], rates={"anna": 60})
    alone.tick(8)
    assert heavy_share(world.plan_of("anna")) < heavy_share(alone.plan_of("anna")) - 0.1


@pytest.mark.parametrize("holds", [1, 2, 3, 4])
def test_where_memory_binds_no_worker_hosts_more_than_fits_and_every_cascade_is_served(holds: int) -> None:
    world = PoolWorld(three(), holds=holds)
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
    world = PoolWorld([on_pool("anna", pool=pool), on_pool("bert", pool=pool)], pool=pool)
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
        world = PoolWorld(three(pool), pool=pool, rates=busy, accelerators=accelerators)
        world.tick(8)
        assert len(world.workers) == count
    calm = PoolWorld(three(), pool=pool_of(workers={"min": 3, "max": 4}), rates=dict.fromkeys(busy, 1.0))
    calm.tick(8)
    assert len(calm.workers) == 3
    own = make_cascade("dora", workers={"cpu": 2})
    for most, rest in ((2, 2), (4, 0)):
        pool = pool_of(workers={"max": most})
        mixed = PoolWorld([*three(pool), own], pool=pool, rates={**busy, "dora": 60.0})
        mixed.tick(12)
        assert Counter(worker.pool.cascade for worker in mixed.workers.values()) == Counter({None: most, "dora": rest})


def test_the_weights_of_a_cascade_that_is_deleted_are_unloaded_and_no_worker_stops_for_it() -> None:
    pool = pool_of(workers={"min": 2, "max": 2})
    world = PoolWorld(three(pool), pool=pool, accelerators=2)
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
    world = PoolWorld(three(pool)[:2], pool=pool, accelerators=2)
    world.tick(6)
    before, moved = set(world.workers), len(world.moves)
    world.cascades.append(three(pool)[2])
    world.tick(6)
    assert world.workers.keys() == before
    assert {type(move) for move in world.moves[moved:]} == {Load}
    assert all(world.hosted[digest] == 2 for digest in weights_of(world.cascades[2]))
    assert world.plan_of("carl").workers


def test_a_pool_that_no_cascade_needs_is_emptied() -> None:
    world = PoolWorld(three())
    world.tick(6)
    assert world.workers
    world.cascades.clear()
    world.tick(4)
    assert not world.workers


def test_a_pool_whose_cascades_are_all_idle_is_emptied_and_started_again() -> None:
    world = PoolWorld(three(policy__scaleToZeroAfter="5m"), rates={})
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
    world = PoolWorld(three(), holds=3)
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


def test_a_cascade_that_only_recommends_moves_nothing_and_takes_no_time_of_those_that_are_acted_upon() -> None:
    anna, bert, _ = three()
    advised = on_pool("bert", pool=pool_of(), policy__mode="advisory")
    alone, beside = (
        PoolWorld(cascades, rates={"anna": 60.0, "bert": 60.0}, accelerators=2)
        for cascades in ([anna], [anna, advised])
    )
    for world in (alone, beside):
        world.tick(8)
    assert beside.hosted == alone.hosted
    assert beside.plan_of("anna").rows == alone.plan_of("anna").rows
    assert advised.ref not in beside.plans
    wanted = {pool.variant: pool.desired for pool in beside.statuses[advised.ref].pools}
    assert wanted.get("light", 0) > 0, "what it would have is in its status"
    moves = len(beside.moves)
    beside.tick(8)
    assert len(beside.moves) == moves
    beside.cascades[1] = bert
    beside.tick(8)
    assert heavy_share(beside.plan_of("anna")) < heavy_share(alone.plan_of("anna")), "now it has its part"


@pytest.mark.parametrize("mode", ["advisory", "paused"])
def test_a_cascade_that_is_no_longer_acted_upon_goes_on_by_its_plan_beside_others(mode: str) -> None:
    world = PoolWorld(three())
    world.tick(6)
    plan = world.plan_of("bert")
    needed = {plan.variants[name].weights for row in plan.rows for name in row.chain}
    world.cascades[1] = on_pool("bert", pool=pool_of(), policy__mode=mode)
    world.rates = {"bert": 0.0}
    world.tick(12)
    assert world.plan_of("bert") == plan
    assert all(world.hosted[digest] for digest in needed)
    world.cascades = world.cascades[1:2]
    moves = len(world.moves)
    world.tick(6)
    assert len(world.moves) == moves, "nobody is left for whom anything is moved"


def test_the_status_of_a_pool_says_what_its_workers_host_and_for_whom_and_is_written_when_that_changes() -> None:
    world = PoolWorld(three()[:2], rates={"anna": 40.0, "bert": 40.0}, accelerators=2, slow=True)
    world.tick()
    assert world.pool_status is not None
    assert (world.pool_status.workers, ready_of(world)) == ("0/2", ("False", Reason.REPLICAS_STARTING))
    world.tick(6)
    status = world.pool_status
    assert (status.workers, status.cascade_count, ready_of(world)) == ("2/2", 2, ("True", Reason.AS_PLANNED))
    assert sum(user.percent for user in status.cascades) in (99, 100, 101)
    assert {(each.variants, each.workers) for each in status.weights} == {
        (f"{name}/{variant}", 2) for name in ("anna", "bert") for variant in ("light", "heavy")
    }
    world.rates = {"anna": 41.0, "bert": 39.0}
    assert not any(world.tick().pool_statuses for _ in range(6)), "a change of shares alone is not worth writing"
    del world.cascades[1]
    world.tick(4)
    assert [user.name for user in world.pool_status.cascades] == ["anna"]
    assert {each.variants for each in world.pool_status.weights} == {"anna/light", "anna/heavy"}
    assert len(world.pool_status.wire().__repr__()) < 10_000


def test_the_status_of_a_pool_names_the_field_that_is_wrong() -> None:
    unknown = PoolWorld([], pool=pool_of(**{"class": "no-such"}))
    unknown.tick()
    assert unknown.pool_status is not None
    accepted = unknown.pool_status.condition(ConditionType.ACCEPTED)
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("False", Reason.INVALID_SPEC)
    assert accepted.message == "spec.class: the operator has no class 'no-such', but cpu"
    assert ready_of(unknown) == ("True", Reason.PARKED), "nobody needs it"


def ready_of(world: PoolWorld) -> tuple[str, Reason]:
    ready = world.pool_status and world.pool_status.condition(ConditionType.READY)
    assert ready
    return ready.status, ready.reason


@pytest.mark.parametrize("accelerators", [1, 2, 4])
def test_a_cascade_that_moves_to_a_pool_leaves_its_own_workers_when_the_pool_hosts_its_weights(
    accelerators: int,
) -> None:
    cascade = on_pool("anna", pool=pool_of())
    world = PoolWorld([cascade], accelerators=accelerators, slow=True)
    own = [{"name": "own", "class": "cpu", "max": 4, "hosting": "shared"}]
    before = make_cascade("anna", workers=own).spec.workers
    world.cascades = [cascade.model_copy(update={"spec": cascade.spec.model_copy(update={"workers": before})})]
    world.tick(6)
    assert {worker.pool.cascade for worker in world.workers.values()} == {"anna"}
    world.cascades = [cascade]
    for _ in range(20):
        world.tick()
        hosted = {d for w in world.workers.values() for d in w.hosting(HostState.READY) if w.state.value != "draining"}
        assert accelerators == 1 or weights_of(cascade) <= hosted, "it is served all the time"
    assert {worker.pool for worker in world.workers.values()} == {POOL}
    assert weights_of(cascade) <= set(world.hosted)


def test_the_cost_of_a_pool_is_attributed_to_its_cascades_by_their_part_of_it() -> None:
    world = PoolWorld(three(), rates={"anna": 40.0, "bert": 10.0, "carl": 1.0})
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
    world = PoolWorld([cascade])
    spec, other = make_profile().spec, make_profile(accelerator_class="gpu").spec
    both = {part: [*getattr(spec, part), *getattr(other, part)] for part in ("execution", "discriminator", "startup")}
    world._profile = world._profile.model_copy(update={"spec": spec.model_copy(update=both)})
    world.tick()
    condition = world.statuses[cascade.ref].condition(ConditionType.ACCEPTED)
    assert condition is not None
    assert condition.reason is Reason.INVALID_SPEC
    assert condition.message.startswith("spec.workers: a cascade with hosting: shared, or on a WorkerPool")
