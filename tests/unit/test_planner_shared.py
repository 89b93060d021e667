"""Workers that host all variants (`hosting: shared`): what is planned for them, and what refuses such plans."""

from __future__ import annotations

import pytest

from cascade_api.cascade import DiffusionCascade
from cascade_api.plan import PATIENCE, Plan
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import ConditionType, Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_api.workers import WorkerPoolSpec
from cascade_operator.planning.allocation import HostSet, Hull, Role
from cascade_operator.planning.allocation.latency import BatchService
from cascade_operator.planning.memory import Memory, rebuilt
from cascade_operator.planning.planner import Planner
from cascade_operator.snapshot import (
    Demand,
    DrainWorker,
    Load,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
)
from support.factories import make_cascade, make_profile, make_view, make_worker, weights_of

NOW = 1_760_000_000.0
SHARED = {"hosting": "shared"}
BOTH = tuple(sorted(weights_of("light", "heavy")))
MOVES = (StartWorker, DrainWorker, StopWorker, Load, Unload)
SMALL = AcceleratorClass(name="cpu", resource="cpu", memory_mi_b=1000)


def shared_cascade(**fields: object) -> DiffusionCascade:
    return make_cascade(pool=SHARED, **fields)  # type: ignore[arg-type]


def ready(count: int) -> tuple[Worker, ...]:
    return tuple(make_worker(f"cpu-{i}", "light", "heavy", since_s=NOW - 60) for i in range(count))


def asked(rate: int) -> Demand:
    return Demand(tuple((int(NOW) - 30 + second, rate) for second in range(30)))


def decided(
    cascade: DiffusionCascade,
    *,
    workers: tuple[Worker, ...] = (),
    rate: int = 10,
    profile: CascadeProfile | None = None,
    memory: Memory | None = None,
    plan: Plan | None = None,
    accelerator: AcceleratorClass = SMALL,
) -> tuple[list[object], Memory]:
    view = make_view(cascade=cascade, demand=asked(rate), profile=profile or make_profile(), plan=plan)
    snapshot = Snapshot((view,), {"cpu": 2}, workers)
    decision = Planner(PlannerSettings(), classes=[accelerator]).decide(snapshot, memory or Memory(), NOW)
    return list(decision.actions), decision.memory


def published(actions: list[object]) -> Plan:
    return next(action.plan for action in actions if isinstance(action, Publish))


def accepted(actions: list[object]) -> tuple[Reason, str]:
    status = next(action.status for action in actions if isinstance(action, SetStatus))
    found = status.condition(ConditionType.ACCEPTED)
    assert found is not None
    return found.reason, found.message


def heavy_share(plan: Plan) -> float:
    return sum(row.share * row.heavy_share for row in plan.rows)


def test_workers_are_started_with_all_variants_until_there_are_as_many_as_are_of_use() -> None:
    starts = [action for action in decided(shared_cascade(), rate=200)[0] if isinstance(action, StartWorker)]
    assert [(start.weights, start.accelerator_class) for start in starts] == [(BOTH, "cpu")] * 2
    assert len([a for a in decided(shared_cascade(), rate=1)[0] if isinstance(a, StartWorker)]) == 1


def test_every_worker_hosts_the_weights_of_all_variants_and_has_credits_for_each() -> None:
    plan = published(decided(shared_cascade(), workers=ready(2))[0])
    assert [worker.id for worker in plan.workers] == ["cpu-0", "cpu-1"]
    for worker in plan.workers:
        assert set(worker.credits) == {"light", "heavy"}
        assert set(worker.hosts) == {variant.weights for variant in plan.variants.values()}
    assert {pool.variant: len(pool.ready) for pool in plan.pools} == {"light": 2, "heavy": 2}


def test_other_demand_changes_shares_and_moves_nothing() -> None:
    shares = []
    memory, plan = Memory(), None
    for rate in (5, 100, 300, 5):
        actions, memory = decided(shared_cascade(), workers=ready(2), rate=rate, memory=memory, plan=plan)
        plan = published(actions)
        shares.append(heavy_share(plan))
        assert not any(isinstance(action, MOVES) for action in actions)
    assert shares[0] > shares[1] > shares[2]
    assert shares[3] == pytest.approx(shares[0])


def test_one_worker_serves_the_light_and_the_heavy_variant_at_once() -> None:
    plan = published(decided(shared_cascade(workers={"cpu": 1}), workers=ready(1), rate=40)[0])
    assert 0 < heavy_share(plan) < 1


def test_what_work_waits_is_cleared_by_cheaper_images() -> None:
    def planned(waiting: int) -> float:
        view = make_view(
            cascade=shared_cascade(),
            demand=asked(40),
            profile=make_profile(),
            queue_depths={"heavy.cpu": waiting},
        )
        snapshot = Snapshot((view,), {"cpu": 2}, ready(2))
        decision = Planner(PlannerSettings(), classes=[SMALL]).decide(snapshot, Memory(), NOW)
        return heavy_share(published(list(decision.actions)))

    # 0.6 s of work may wait for each of both workers: 30 images of 40 ms.
    assert planned(30) == planned(0)
    assert planned(60) < planned(0) - 0.05


def test_the_plan_names_the_quick_variant_as_the_stand_in_and_only_alike_ones_share_a_queue() -> None:
    def planned(light_ms: float) -> Plan:
        profile = make_profile(light_ms=light_ms, heavy_ms=40.0)
        return published(decided(shared_cascade(), workers=ready(2), profile=profile)[0])

    def queues(plan: Plan) -> set[str]:
        return {pool.queue for pool in plan.pools}

    assert planned(5.0).stand_in == "light"
    assert queues(planned(5.0)) == {"light.cpu", "heavy.cpu"}
    assert queues(planned(20.0)) == {"heavy.cpu"}


def test_plans_for_dedicated_workers_say_nothing_of_sharing() -> None:
    workers = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy"))
    plan = published(decided(make_cascade(), workers=workers)[0])
    assert plan.stand_in is None
    assert plan.patience == PATIENCE
    assert {pool.queue for pool in plan.pools} == {"light.cpu", "heavy.cpu"}


def test_the_target_is_rebuilt_from_a_plan_whose_workers_serve_several_variants() -> None:
    plan = published(decided(shared_cascade(), workers=ready(2))[0])
    target = rebuilt(plan).target
    assert target is not None
    assert target.workers == {HostSet(BOTH, "cpu"): 2}
    assert {key: size.replicas for key, size in target.sizes.items()} == {("light", "cpu"): 2, ("heavy", "cpu"): 2}


def test_a_worker_that_still_loads_the_variant_whose_queue_another_waits_in_serves_neither() -> None:
    profile = make_profile(light_ms=20.0, heavy_ms=40.0)
    loading = make_worker("cpu-1", "light", since_s=NOW - 60)
    plan = published(decided(shared_cascade(), workers=(*ready(1), loading), profile=profile)[0])
    assert [worker.id for worker in plan.workers] == ["cpu-0"]
    alone, _ = decided(shared_cascade(), workers=(loading,), profile=profile)
    assert not any(isinstance(action, Publish) for action in alone), "nothing can be served yet"


@pytest.mark.parametrize("names", ["quick slow", "slow quick"])
def test_weights_work_only_where_all_of_their_variants_have_a_queue(names: str) -> None:
    """Two variants of the same weights, of which one waits in the queue of the long one, whose weights are others."""
    seconds = {"quick": 0.1, "slow": 0.9, "long": 1.0}
    hull = Hull(
        weights={**dict.fromkeys(names.split(), "both"), "long": "other"},
        accelerator_class="cpu",
        corners=(),
        services={(name, Role.HEAVY): BatchService(1, each, each) for name, each in seconds.items()},
        batches=dict.fromkeys(seconds, 1),
        least_s=0.1,
    )
    assert hull.working(HostSet.of(["both"], "cpu")).weights == ()
    assert hull.working(hull.hosts) == hull.hosts


@pytest.mark.parametrize(
    ("policy", "known", "reason", "field"),
    [
        ("hybrid", False, Reason.INVALID_SPEC, "spec.workers.0.pool: "),
        ("hadis", False, Reason.POLICY_NEEDS_DEDICATED_WORKERS, "spec.policy.name: "),
        ("hadis", True, Reason.POLICY_NEEDS_DEDICATED_WORKERS, "spec.policy.name: "),
    ],
)
def test_a_cascade_on_a_worker_pool_is_refused_by_the_name_of_the_field(
    policy: str, known: bool, reason: Reason, field: str
) -> None:
    cascade = make_cascade(policy__name=policy, workers=[{"pool": "slots", "max": 2}])
    if known:
        pool = WorkerPoolSpec.model_validate({"class": "cpu", "workers": {"max": 4}})
        cascade = cascade.model_copy(update={"spec": cascade.spec.on_pools({"slots": pool})})
    found, message = accepted(decided(cascade)[0])
    assert found is reason
    assert message.startswith(field)


@pytest.mark.parametrize("name", ["hadis", "diffserve", "proteus", "all-light"])
def test_policies_that_know_one_variant_a_worker_refuse_shared_workers(name: str) -> None:
    reason, message = accepted(decided(shared_cascade(policy__name=name))[0])
    assert reason is Reason.POLICY_NEEDS_DEDICATED_WORKERS
    assert message.startswith("spec.policy.name")


def with_memory(mib: int) -> CascadeProfile:
    """A profile in which the weights of each variant take so much."""
    profile = make_profile()
    rows = [row.model_copy(update={"memory_mi_b": mib}) for row in profile.spec.execution]
    return profile.model_copy(update={"spec": profile.spec.model_copy(update={"execution": rows})})


def test_where_memory_holds_some_variants_only_workers_host_different_ones() -> None:
    starts = [a for a in decided(shared_cascade(), profile=with_memory(600), rate=200)[0] if isinstance(a, StartWorker)]
    assert {start.weights for start in starts} == {weights_of("light"), weights_of("heavy")}
    roomy = SMALL.model_copy(update={"memory_mi_b": 1200})
    actions, _ = decided(shared_cascade(), profile=with_memory(600), accelerator=roomy, rate=200)
    assert {start.weights for start in actions if isinstance(start, StartWorker)} == {BOTH}


def with_use(**uses: dict[str, object]) -> CascadeProfile:
    """A profile that says what memory the weights of each variant take."""
    rows = [{"variant": name, "class": "cpu", **use} for name, use in uses.items()]
    return make_profile(memory=rows)


TEXT = [{"name": "t5-xxl", "memoryMiB": 500}]


@pytest.mark.parametrize(
    ("light", "heavy", "together"),
    [
        ({"restMiB": 400}, {"restMiB": 600}, True),
        ({"restMiB": 400}, {"restMiB": 601}, False),
        # Eight images in flight, the largest batch that was measured.
        ({"restMiB": 100, "imageMiB": 50}, {"restMiB": 500}, True),
        ({"restMiB": 100, "imageMiB": 51}, {"restMiB": 500}, False),
        # A component that both use counts once.
        ({"restMiB": 200, "components": TEXT}, {"restMiB": 300, "components": TEXT}, True),
        ({"restMiB": 200, "components": TEXT}, {"restMiB": 301, "components": TEXT}, False),
    ],
)
def test_what_fits_together_is_weights_once_components_once_and_images_on_top(
    light: dict[str, object], heavy: dict[str, object], together: bool
) -> None:
    actions, _ = decided(shared_cascade(), profile=with_use(light=light, heavy=heavy), rate=200)
    starts = {start.weights for start in actions if isinstance(start, StartWorker)}
    assert starts == ({BOTH} if together else {weights_of("light"), weights_of("heavy")})


@pytest.mark.parametrize("pool", [{}, SHARED])
def test_measured_weights_that_fit_no_worker_are_refused_by_the_name_of_their_variant(pool: dict[str, str]) -> None:
    profile = with_use(light={"restMiB": 10}, heavy={"restMiB": 900, "imageMiB": 101})
    reason, message = accepted(decided(make_cascade(pool=pool), profile=profile)[0])
    assert reason is Reason.INVALID_SPEC
    assert message.startswith("spec.variants: heavy: ")


def test_a_dedicated_worker_needs_room_for_one_image_only() -> None:
    profile = with_use(light={"restMiB": 10}, heavy={"restMiB": 900, "imageMiB": 100})
    assert any(isinstance(action, StartWorker) for action in decided(make_cascade(), profile=profile)[0])


@pytest.mark.parametrize(("memory_mib", "at_once"), [(600, True), (100, False)])
def test_where_memory_binds_a_rise_of_demand_is_answered_at_once(memory_mib: int, at_once: bool) -> None:
    """A quick variant could carry the load, so nothing is shed, but the other weights are needed elsewhere."""
    workers = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy"))
    if not at_once:
        workers = ready(2)
    memory, made_at = Memory(), []
    plan: Plan | None = None
    for now, rate in ((NOW, 20), (NOW + 1, 24)):
        view = make_view(
            cascade=shared_cascade(),
            demand=Demand(tuple((int(now) - 30 + second, rate) for second in range(30))),
            profile=with_memory(memory_mib),
            plan=plan,
        )
        snapshot = Snapshot((view,), {"cpu": 2}, workers)
        decision = Planner(PlannerSettings(), classes=[SMALL]).decide(snapshot, memory, now)
        memory = decision.memory
        plan = next((action.plan for action in decision.actions if isinstance(action, Publish)), plan)
        target = memory.cascades["default/shapes"].target
        assert target is not None
        made_at.append(target.decided_at_s)
    assert made_at == [NOW, NOW + 1 if at_once else NOW]


def test_weights_that_fit_no_worker_are_refused_before_anything_is_loaded() -> None:
    actions, _ = decided(shared_cascade(), profile=with_memory(1600))
    reason, message = accepted(actions)
    assert reason is Reason.INVALID_SPEC
    assert "1600 MiB" in message
    assert not any(isinstance(action, StartWorker) for action in actions)


def test_workers_on_which_no_image_is_made_in_time_are_left_as_they_are() -> None:
    cascade = shared_cascade(objective__latency="30ms")
    actions, _ = decided(cascade, workers=ready(1), profile=make_profile(light_ms=100.0, heavy_ms=900.0))
    assert not any(isinstance(action, Publish) for action in actions)
