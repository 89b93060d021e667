"""One decision at a time: what is published, done and reported in each situation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cascade_api.cascade import PolicyName
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType, Reason
from cascade_api.report import RouterReport
from cascade_api.settings import PlannerSettings
from cascade_api.status import CascadeStatus
from cascade_operator.planning.memory import Memory, Target, TargetHosts, TargetPool
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.planning.plans import needed
from cascade_operator.snapshot import (
    CascadeView,
    DrainWorker,
    Load,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)
from support.closed_loop import START
from support.factories import (
    DISCRIMINATOR_MS,
    HEAVY_MS,
    LIGHT_MS,
    make_cascade,
    make_demand,
    make_profile,
    make_view,
    make_worker,
    weights_of,
)

NOW = START
BOTH = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy"))
MOVES = (StartWorker, DrainWorker, StopWorker, Load, Unload)


Seen = tuple[CascadeView, tuple[Worker, ...]]


def seen(cascade: Any = None, *, workers: tuple[Worker, ...] = (), **fields: Any) -> Seen:
    """One cascade as the planner sees it, with its workers."""
    return make_view(cascade, **fields), workers


def decided(
    seen: Seen,
    *,
    memory: Memory | None = None,
    now: float = NOW,
    inventory: dict[str, int] | None = {"cpu": 2},  # noqa: B006 (never changed)
    store_available: bool = True,
) -> Decision:
    snapshot = Snapshot((seen[0],), inventory, seen[1], store_available=store_available)
    return Planner(PlannerSettings()).decide(snapshot, memory or Memory(), now)


def published(decision: Decision) -> Plan | None:
    return next((a.plan for a in decision.actions if isinstance(a, Publish)), None)


def reported(decision: Decision) -> CascadeStatus:
    return next(a.status for a in decision.actions if isinstance(a, SetStatus))


def condition(decision: Decision, kind: ConditionType) -> tuple[str, Reason, str]:
    found = reported(decision).condition(kind)
    assert found is not None
    return found.status, found.reason, found.message


def moved(decision: Decision) -> list[Any]:
    return [action for action in decision.actions if isinstance(action, MOVES)]


def running_plan(**view: Any) -> tuple[Plan, Memory]:
    """A plan in force at 20 requests per second and the memory beside it."""
    fields: dict[str, Any] = {"demand": make_demand(20, now=NOW), "workers": BOTH} | view
    decision = decided(seen(**fields))
    plan = published(decision)
    assert plan is not None
    return plan, decision.memory


def test_a_cold_start_brings_both_stages_up_without_knowing_the_demand() -> None:
    decision = decided(seen(demand=None))
    assert {a.weights for a in moved(decision)} == {weights_of("light"), weights_of("heavy")}
    assert all(isinstance(a, StartWorker) for a in moved(decision))
    assert published(decision) is None
    assert condition(decision, ConditionType.READY)[:2] == ("False", Reason.REPLICAS_STARTING)
    assert condition(decision, ConditionType.METRICS_AVAILABLE)[1] is Reason.METRICS_MISSING


def test_the_first_plan_serves_with_what_is_ready() -> None:
    workers = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy", state="starting"))
    plan = published(decided(seen(demand=None, workers=workers)))
    assert plan is not None
    assert plan.reason is Reason.INITIAL_PLAN
    assert all(row.heavy_share == 0 for row in plan.rows)


def test_a_plan_carries_all_that_a_router_needs() -> None:
    plan, _ = running_plan()
    light, heavy = (plan.pools_of(v)[0] for v in ("light", "heavy"))
    assert (light.name, heavy.name) == ("light.cpu", "heavy.cpu")
    assert [r.endpoint for r in light.ready] == ["127.0.0.1:9000"]
    assert [worker.credits for worker in plan.workers] == [{"light": 2 * light.batch}, {"heavy": heavy.batch}]
    weights = {variant.name: variant.weights.digest for variant in make_cascade().spec.variants}
    assert [worker.hosts for worker in plan.workers] == [[weights["light"]], [weights["heavy"]]]
    assert {name: variant.weights for name, variant in plan.variants.items()} == weights
    assert plan.variants["heavy"].settings.steps == 20
    assert heavy.execution_s[1] == pytest.approx(0.04)
    assert plan.objective_s == 2
    assert plan.generation == int(NOW * 1000)
    assert plan.expected.demand == pytest.approx(20)
    assert 0.9 < plan.expected.quality <= 0.98
    assert 0.04 < plan.expected.latency_p99 < 2
    row = plan.rows[0]
    assert row.seed_thresholds is not None
    assert row.seed_thresholds.hardness == pytest.approx(1 - row.direct)
    assert row.seed_thresholds.confidence == pytest.approx(row.escalation)


def test_a_variant_that_is_gone_is_told_as_before_while_a_worker_serves_it() -> None:
    both = make_profile().spec.wire()["quality"]
    profile = make_profile(quality=[*both, {"chain": ["light"], "valuesMilli": {"q2": 670}}])
    plan, memory = running_plan(profile=profile)
    one = make_cascade(variants=[make_cascade().spec.variant("light").wire()])
    view: dict[str, Any] = {"profile": profile, "workers": BOTH, "demand": make_demand(20, now=NOW + 1)}
    later = published(decided(seen(one, plan=plan, **view), memory=memory, now=NOW + 1))
    assert later is not None
    assert {row.chain for row in later.rows} == {("light",)}
    assert later.variants["heavy"] == plan.variants["heavy"]
    assert [worker.hosts for worker in later.workers] == [worker.hosts for worker in plan.workers]
    # What it was is not known to somebody who has no plan: its worker is left out.
    anew = published(decided(seen(one, **view), now=NOW + 1))
    assert anew is not None
    assert list(anew.variants) == ["light"]
    assert [worker.id for worker in anew.workers] == ["cpu-0"]


def test_live_scores_replace_the_profile_s_as_seeds() -> None:
    report = RouterReport(
        router="r",
        at_ms=0,
        plan_generation=0,
        received=1000,
        hardness=[10.0 + i for i in range(21)],
        confidence={"light": [20.0 + i for i in range(21)]},
    )
    plan, _ = running_plan(reports=[report])
    row = plan.rows[0]
    assert row.seed_thresholds is not None
    assert row.seed_thresholds.hardness == pytest.approx(10 + 20 * (1 - row.direct))
    assert row.seed_thresholds.confidence == pytest.approx(20 + 20 * row.escalation)


def test_nothing_is_published_while_nothing_changes() -> None:
    plan, memory = running_plan()
    view = seen(demand=make_demand(20, now=NOW + 0.5), workers=BOTH, plan=plan)
    assert published(decided(view, memory=memory, now=NOW + 0.5)) is None


def test_shares_follow_the_demand_on_the_pools_that_exist() -> None:
    plan, memory = running_plan()
    view = seen(demand=make_demand(90, now=NOW + 0.5), workers=BOTH, plan=plan)
    later = published(decided(view, memory=memory, now=NOW + 0.5))
    assert later is not None
    assert later.generation > plan.generation
    assert sum(r.share * r.heavy_share for r in later.rows) < sum(r.share * r.heavy_share for r in plan.rows)


def test_a_lost_worker_changes_the_plan_at_once_and_is_started_again() -> None:
    plan, memory = running_plan()
    workers = (BOTH[0], make_worker("cpu-1", "heavy", state="failed"))
    decision = decided(
        seen(demand=make_demand(20, now=NOW + 0.5), workers=workers, plan=plan), memory=memory, now=NOW + 0.5
    )
    later = published(decision)
    assert later is not None
    assert later.reason is Reason.REPLICAS_CHANGED
    assert all(row.heavy_share == 0 for row in later.rows)
    assert moved(decision) == [Load("cpu-1", *weights_of("heavy"))]
    assert condition(decision, ConditionType.POOLS_AVAILABLE)[1] is Reason.REPLICAS_FAILING


def test_when_every_worker_is_lost_the_rows_stay_and_the_pools_are_empty() -> None:
    plan, memory = running_plan()
    workers = (make_worker("cpu-0", "light", state="failed"), make_worker("cpu-1", "heavy", state="failed"))
    decision = decided(
        seen(demand=make_demand(20, now=NOW + 0.5), workers=workers, plan=plan), memory=memory, now=NOW + 0.5
    )
    later = published(decision)
    assert later is not None
    assert later.rows == plan.rows
    assert all(not pool.workers for pool in later.pools)
    assert condition(decision, ConditionType.READY)[:2] == ("False", Reason.REPLICAS_FAILING)


@pytest.mark.parametrize("mode", ["paused", "advisory"])
def test_paused_and_advisory_act_on_nothing_and_say_so(mode: str) -> None:
    decision = decided(seen(make_cascade(policy__mode=mode), demand=make_demand(400, now=NOW), workers=BOTH))
    assert not moved(decision)
    assert published(decision) is None
    reason = Reason.PAUSED_BY_USER if mode == "paused" else Reason.ADVISORY
    assert condition(decision, ConditionType.PAUSED)[:2] == ("True", reason)


@pytest.mark.parametrize(
    ("unknown", "kind", "reason"),
    [
        ({"inventory": None}, ConditionType.ALLOCATION_OPTIMAL, Reason.INVENTORY_UNKNOWN),
        ({"store_available": False}, ConditionType.METRICS_AVAILABLE, Reason.STORE_AWAY),
    ],
)
def test_what_is_not_known_holds_the_last_plan(unknown: Any, kind: ConditionType, reason: Reason) -> None:
    plan, memory = running_plan()
    demand = None if "store_available" in unknown else make_demand(400, now=NOW + 60)
    view = seen(demand=demand, workers=BOTH, plan=plan)
    decision = decided(view, memory=memory, now=NOW + 60, **unknown)
    assert not moved(decision)
    assert published(decision) is None
    assert condition(decision, kind)[1] is reason
    assert condition(decision, ConditionType.READY)[0] == "True"


def test_missing_demand_holds_the_last_known_one() -> None:
    plan, memory = running_plan()
    decision = decided(seen(demand=None, workers=BOTH, plan=plan), memory=memory, now=NOW + 60)
    assert not moved(decision)
    assert published(decision) is None
    assert condition(decision, ConditionType.METRICS_AVAILABLE)[1] is Reason.METRICS_MISSING


def test_a_missing_profile_holds_the_plan_and_names_the_field() -> None:
    plan, memory = running_plan()
    view = CascadeView(make_cascade(), None, plan, make_demand(400, now=NOW), {}, ())
    decision = decided((view, BOTH), memory=memory)
    assert not moved(decision)
    assert published(decision) is None
    status, reason, message = condition(decision, ConditionType.ACCEPTED)
    assert (status, reason) == ("False", Reason.PROFILE_MISSING)
    assert "spec.profileRef.name" in message


def test_a_profile_that_does_not_fit_is_refused_by_field() -> None:
    profile = make_profile(chains=[("light", "other")])
    status, reason, message = condition(decided(seen(profile=profile)), ConditionType.ACCEPTED)
    assert (status, reason) == ("False", Reason.PROFILE_INVALID)
    assert "spec.profileRef" in message


@pytest.mark.parametrize("name", [name.value for name in PolicyName])
def test_every_policy_of_the_vocabulary_decides(name: str) -> None:
    decision = decided(seen(make_cascade(policy__name=name)))
    assert condition(decision, ConditionType.ACCEPTED)[0] == "True"
    assert moved(decision)


def test_after_the_store_was_away_the_plan_is_published_again() -> None:
    plan, memory = running_plan()
    held = decided(seen(workers=BOTH, plan=plan), memory=memory, now=NOW + 1, store_available=False)
    view = seen(demand=make_demand(20, now=NOW + 2), workers=BOTH, plan=None)
    again = published(decided(view, memory=held.memory, now=NOW + 2))
    assert again is not None
    assert again.generation > plan.generation
    assert again.pools == plan.pools
    back = seen(demand=make_demand(20, now=NOW + 2), workers=BOTH, plan=plan)
    assert published(decided(back, memory=held.memory, now=NOW + 2)) is not None


def test_a_lost_memory_is_rebuilt_from_the_plan_without_moving_anything() -> None:
    plan, _ = running_plan()
    decision = decided(seen(demand=make_demand(20, now=NOW + 5), workers=BOTH, plan=plan), now=NOW + 5)
    assert not moved(decision)
    later = published(decision)
    assert later is None or later.generation > plan.generation


def test_the_memory_survives_json_and_an_unreadable_one_is_empty() -> None:
    _, memory = running_plan()
    assert Memory.from_json(memory.to_json()) == memory
    assert Memory.from_json("{") == Memory()


def test_the_status_is_sent_only_when_it_changes() -> None:
    plan, memory = running_plan()
    first = decided(seen(demand=make_demand(20, now=NOW), workers=BOTH, plan=plan), memory=memory)
    view = seen(demand=make_demand(20, now=NOW + 0.5), workers=BOTH, plan=plan, status=reported(first))
    again = decided(view, memory=first.memory, now=NOW + 0.5)
    assert not [a for a in again.actions if isinstance(a, SetStatus)]


def test_a_change_of_spec_is_the_reason_of_the_plan_that_it_causes() -> None:
    plan, memory = running_plan()
    view = seen(make_cascade(policy__name="all-light"), demand=make_demand(20, now=NOW + 0.5), workers=BOTH, plan=plan)
    later = published(decided(view, memory=memory, now=NOW + 0.5))
    assert later is not None
    assert later.reason is Reason.SPEC_CHANGED


def test_the_next_decision_is_a_tick_away() -> None:
    assert decided(seen()).next_at == pytest.approx(NOW + 0.5)
    slow = make_cascade(objective__latency="60s")
    assert decided(seen(slow)).next_at == pytest.approx(NOW + 5)


def test_an_operator_without_cascades_decides_nothing() -> None:
    decision = Planner(PlannerSettings()).decide(Snapshot((), {}), Memory(), NOW)
    assert decision.actions == ()


def test_diagnostics_tell_demand_and_reason() -> None:
    (found,) = decided(seen(demand=make_demand(20, now=NOW), workers=BOTH)).diagnostics
    assert found.reason == "InitialPlan"
    assert found.demand == pytest.approx(20)


def test_cascades_do_not_take_each_other_s_accelerators() -> None:
    one, other = (make_view(make_cascade(name), demand=make_demand(5, now=NOW)) for name in ("one", "other"))
    decision = Planner(PlannerSettings()).decide(Snapshot((one, other), {"cpu": 2}), Memory(), NOW)
    assert len(moved(decision)) == 2


def test_a_cascade_gives_up_what_another_needs_and_the_other_starts_only_on_what_is_free() -> None:
    capacity = {"cpu": 4}
    rich = tuple(make_worker(f"cpu-{i}", "light" if i < 2 else "heavy", cascade="one") for i in range(4))
    plan, _ = running_plan(workers=rich, cascade=make_cascade("one", workers=capacity))

    def both(workers: tuple[Worker, ...], memory: Memory, now: float) -> Decision:
        one = make_view(make_cascade("one", workers=capacity), demand=make_demand(5, now=now), plan=plan)
        other = make_view(make_cascade("other", workers=capacity), demand=make_demand(5, now=now))
        return Planner(PlannerSettings()).decide(Snapshot((one, other), {"cpu": 4}, workers), memory, now)

    first = both(rich, Memory(), NOW)
    (drain,) = moved(first)
    assert isinstance(drain, DrainWorker)
    left = tuple(replace(w, state=WorkerState.DRAINING) if w.id == drain.worker else w for w in rich)
    second = both(left, first.memory, NOW + 0.5)
    assert StopWorker(drain.worker) in moved(second)
    third = both(tuple(w for w in rich if w.id != drain.worker), second.memory, NOW + 1)
    (start,) = (a for a in moved(third) if isinstance(a, StartWorker))
    assert start.pool.cascade == "other"


def test_variants_that_the_spec_no_longer_has_make_room_one_at_a_time() -> None:
    plan, memory = running_plan()
    old = (make_worker("cpu-0", "retired"), make_worker("cpu-1", "ancient"))
    rows = [row.model_copy(update={"chain": ("retired", "ancient")}) for row in plan.rows]
    view = seen(demand=make_demand(20, now=NOW + 1), workers=old, plan=plan.model_copy(update={"rows": rows}))
    decision = decided(view, memory=memory, now=NOW + 1)
    assert moved(decision) == []
    (leaving,) = decision.memory.cascades["default/shapes"].leaving
    assert leaving.since_s == NOW + 1
    later = decided((view[0], old), memory=decision.memory, now=NOW + 2)
    assert [type(action) for action in moved(later)] == [Unload, Load]
    assert published(decision) is None


def offered(rate: float, **policy: Any) -> tuple[float, float]:
    """Escalations that the plan asks for per prompt, and those that its heavy pool can serve beside direct ones."""
    cascade = make_cascade(**policy)
    decision = decided(seen(cascade=cascade, demand=make_demand(rate, now=NOW), workers=BOTH))
    plan = published(decision)
    assert plan is not None
    asked = sum(row.share * (1 - row.direct) * row.escalation for row in plan.rows)
    direct = sum(row.share * row.direct for row in plan.rows)
    return asked, 25 * (1 - cascade.spec.policy.headroom_percent / 100) / rate - direct


def test_a_full_heavy_pool_is_offered_more_escalations_than_fit_where_the_rest_is_degraded() -> None:
    asked, fits = offered(100)
    assert asked == pytest.approx(1.2 * fits, rel=0.02)
    asked, fits = offered(100, policy__overload="strict")
    assert asked <= fits + 1e-6
    asked, fits = offered(10)
    assert asked <= fits, "a pool that is not full is offered what is planned"


def test_several_workers_may_move_at_once_in_a_large_cascade() -> None:
    cascade = make_cascade(workers={"cpu": 8})
    workers = (*(make_worker(f"cpu-{i}", "heavy") for i in range(7)), make_worker("cpu-7", "light"))
    decision = decided(seen(cascade=cascade, demand=make_demand(900, now=NOW), workers=workers), inventory={"cpu": 8})
    assert len(decision.memory.cascades["default/shapes"].leaving) == 2


def test_a_pool_is_not_left_where_what_remains_would_shed_load_meanwhile() -> None:
    plan, memory = running_plan()
    two_heavy = replace(
        memory.cascades["default/shapes"],
        target=Target(
            (TargetPool("heavy", "cpu", 2, 1),),
            (TargetHosts(weights_of("heavy"), "cpu", 2),),
            decided_at_s=NOW,
            demand=42.0,
        ),
    )
    for demand, left in ((42, False), (8, True)):
        view = seen(plan=plan, demand=make_demand(demand, now=NOW + 1), workers=BOTH)
        decision = decided(view, memory=Memory({"default/shapes": two_heavy}), now=NOW + 1)
        assert moved(decision) == []
        assert ("light" not in needed((published(decision) or plan).rows)) is left


def test_what_workers_say_of_their_batches_corrects_the_profile() -> None:
    """The heavy model takes twice what its profile says, then nobody asks for it any more, then it is as profiled."""
    plan, memory = running_plan()
    before = plan.planned_shares

    def ask(now: float, factor: float | None) -> Plan | None:
        """A decision where heavy batches take ``factor`` times what the profile says, None: there are none."""
        nonlocal plan, memory
        times = {"light.cpu": {"images": 3, "seconds": 3 * (LIGHT_MS + DISCRIMINATOR_MS) / 1000}}
        if factor is not None:
            times["heavy.cpu"] = {"images": 3, "seconds": 3 * factor * HEAVY_MS / 1000}
        report = RouterReport(router="r", at_ms=0, plan_generation=1, received=1, batch_times=times)
        view = seen(plan=plan, demand=make_demand(20, now=now), workers=BOTH, reports=(report,))
        decision = decided(view, memory=memory, now=now)
        said, memory = published(decision), decision.memory
        plan = said or plan
        return said

    def slowdown(variant: str) -> float:
        """By what the plan reckons with."""
        (pool,) = plan.pools_of(variant)
        return pool.execution_s[1] * 1000 / {"light": LIGHT_MS, "heavy": HEAVY_MS}[variant]

    assert ask(NOW + 1, 1.2) is None, "medians waver"
    ask(NOW + 2, 2.0)
    said = ask(NOW + 3, 2.0)
    assert said is not None
    assert said.reason is Reason.PROFILE_CORRECTED
    assert (slowdown("light"), slowdown("heavy")) == pytest.approx((1.0, 2.0))
    assert plan.planned_shares["light"] > before["light"], "less is escalated"
    for after_s in range(4, 60):
        ask(NOW + after_s, None)
        assert slowdown("heavy") == pytest.approx(2.0)
    ask(NOW + 60, 1.0)
    said = ask(NOW + 61, 1.0)
    assert said is not None
    assert slowdown("heavy") == pytest.approx(1.0)
    assert plan.planned_shares["light"] == pytest.approx(before["light"], abs=0.02)
    ask(NOW + 62, 2.0)
    for after_s in (63, 130, 131):
        ask(NOW + after_s, None)
    assert slowdown("heavy") == pytest.approx(1.0), "it is not believed for ever"


def test_load_is_not_said_to_be_shed_any_more_when_it_has_fallen_although_workers_are_not_decided_yet() -> None:
    view = {"workers": BOTH}
    first = decided(seen(demand=make_demand(4000, now=NOW), **view))
    assert condition(first, ConditionType.ALLOCATION_OPTIMAL)[:2] == ("False", Reason.LOAD_SHED)
    (name, kept), *_ = first.memory.cascades.items()
    calm = Memory({name: replace(kept, arrivals=None)})
    fields = {"plan": published(first), "status": reported(first), **view}
    after = decided(seen(demand=make_demand(1, now=NOW + 2), **fields), memory=calm, now=NOW + 2)
    # Both workers are still light ones.
    assert condition(after, ConditionType.ALLOCATION_OPTIMAL)[:2] == ("False", Reason.QUALITY_SHED)
    target = after.memory.cascades[name].target
    assert target is not None
    assert target.decided_at_s == NOW
    still = decided(seen(demand=make_demand(4000, now=NOW + 2), **fields), memory=calm, now=NOW + 2)
    assert (
        not [a for a in still.actions if isinstance(a, SetStatus)]
        or condition(still, ConditionType.ALLOCATION_OPTIMAL)[1] is Reason.LOAD_SHED
    )
