"""Allocations of the built-in cascade and of small invented ones: what is chosen, and how it is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cascade_api.reasons import Reason
from cascade_api.settings import CPU, PlannerSettings
from cascade_operator.planning.allocation.problem import Allocation, AllocationProblem, PoolKey, PoolSize
from cascade_operator.planning.allocation.shares import best_sharing
from cascade_operator.planning.allocation.solver import allocate
from cascade_operator.planning.prepared import prepare
from support.factories import make_cascade, make_profile
from support.problems import Instance

LIGHT, HEAVY = ("light", "cpu"), ("heavy", "cpu")
BOTH = {LIGHT: 1, HEAVY: 1}

RISING = [0, 600, 1000, 500, 800, 1000, 900, 950, 1000]
"""Thousandths of quality at r, d of 0, 50 and 100 %."""


def allocation(
    demand: float, *, running: Mapping[PoolKey, int] | None = None, slots: int = 2, **cascade: Any
) -> Allocation:
    prepared = prepare(
        make_cascade(**{"workers": {"cpu": slots}, **cascade}),
        make_profile(),
        settings=PlannerSettings(),
        classes=(CPU,),
    )
    problem = prepared.at(demand, running=running)
    return allocate(AllocationProblem((problem,), {"cpu": slots}, {"cpu": 0.0}))[problem.ref]


def replicas(answer: Allocation) -> dict[PoolKey, int]:
    return {key: pool.replicas for key, pool in answer.pools.items()}


@pytest.mark.parametrize("demand", [0.5, 5, 15, 25])
def test_at_low_load_both_variants_run_and_the_quality_is_the_best_there_is(demand: float) -> None:
    answer = allocation(demand)
    assert replicas(answer) == BOTH
    assert answer.value == pytest.approx(1.0)
    assert answer.verdict is Reason.OPTIMAL
    assert answer.binding == ()


def test_at_idle_time_is_not_spent_on_quality_that_is_no_better() -> None:
    (portion,) = allocation(1.0).mixture
    assert portion.row.heavy_load < 0.85


def test_at_medium_load_two_heavy_replicas_serve_where_that_is_clearly_better() -> None:
    assert replicas(allocation(42, running=BOTH)) == {HEAVY: 2}


def test_times_of_another_size_change_nothing() -> None:
    profile = make_profile()
    slow = [
        row.model_copy(update={"size": "64x64", "p50_micros": 10**8, "p95_micros": 10**8})
        for row in profile.spec.execution
    ]
    both = profile.spec.model_copy(update={"execution": [*slow, *profile.spec.execution]})
    prepared, alone = (
        prepare(
            make_cascade(),
            profile.model_copy(update={"spec": spec}),
            settings=PlannerSettings(),
            classes=(CPU,),
        )
        for spec in (both, profile.spec)
    )
    assert prepared.problem == alone.problem


def test_more_load_means_less_heavy() -> None:
    served = [allocation(demand) for demand in (60, 100, 150, 250)]
    heavy = [sum(p.share * p.row.heavy_load for p in answer.mixture) for answer in served]
    assert heavy == sorted(heavy, reverse=True)
    assert all(replicas(answer) == BOTH for answer in served)
    assert "all 2 cpu accelerators" in served[0].binding[0]


def test_at_high_load_everything_is_light_and_the_answer_says_so() -> None:
    answer = allocation(400, running=BOTH)
    assert replicas(answer) == {LIGHT: 2}
    assert answer.verdict is Reason.QUALITY_SHED
    assert answer.shed == 0


def test_beyond_capacity_load_is_shed_last_and_as_little_as_possible() -> None:
    answer = allocation(800)
    assert answer.verdict is Reason.LOAD_SHED
    assert answer.shed == pytest.approx(1 - 2 * 0.95 / 0.0035 / 800, abs=0.002)


def test_a_gain_within_the_noise_is_not_worth_a_switch() -> None:
    values = [0, 997, 1000, 500, 998, 1000, 999, 999, 1000]
    measured = instance(values={("a", "b"): values}, prices={}, batches=(1,), source="measured")
    running = {("a", "gpu"): 4, ("b", "gpu"): 4}
    noise = measured.allocate(demand=6, running=running)
    assert noise.switches == 0
    assert replace(measured, source="published").allocate(demand=6, running=running).switches > 0


def test_replicas_beyond_need_are_kept_where_they_cost_nothing() -> None:
    running = {LIGHT: 2, HEAVY: 2}
    assert replicas(allocation(5, running=running, slots=4)) == running


def test_more_degraded_answers_than_the_attainment_leaves_are_not_called_optimal() -> None:
    asked: dict[str, Any] = {"objective": {"latency": "300ms"}, "policy__headroom_percent": 0}
    assert allocation(60, **asked).verdict is Reason.DEGRADING
    assert allocation(60, **asked, objective__attainmentPercent=50).verdict is Reason.OPTIMAL
    assert allocation(60, **asked, policy__overload="strict").verdict is Reason.OPTIMAL


def test_bounds_on_workers_are_kept() -> None:
    answer = allocation(400, workers={"cpu": 1}, slots=2)
    assert sum(replicas(answer).values()) == 1
    assert any("all 1 cpu accelerators that spec.workers allows" in words for words in answer.binding)
    assert replicas(allocation(400, heavy__minHosts=1))[HEAVY] == 1


@pytest.mark.parametrize("demand", [5, 400, 100_000])
def test_workers_that_no_load_needs_change_nothing_and_take_no_memory(demand: float) -> None:
    enough = 20 if demand < 1000 else 5000
    assert replicas(allocation(demand, slots=10_000)) == replicas(allocation(demand, slots=enough))


def test_as_many_workers_run_as_a_pool_has_at_least() -> None:
    few = instance(batches=(1,))
    assert sum(replicas(few.allocate(demand=0.3)).values()) == 1
    assert sum(replicas(replace(few, least={"gpu": 5}).allocate(demand=0.3)).values()) == 5
    assert sum(replicas(replace(few, least={"gpu": 8}, budgets={"gpu": "7.50"}).allocate(demand=0.3)).values()) == 3


def test_all_light_and_all_heavy_choose_their_own_rows() -> None:
    assert {key[0] for key in allocation(5, policy__name="all-light").pools} == {"light"}
    assert {key[0] for key in allocation(5, policy__name="all-heavy").pools} == {"heavy"}
    assert allocation(5, policy__name="all-light").verdict is Reason.OPTIMAL


def instance(**changes: Any) -> Instance:
    base = Instance(
        seconds={"a": {"gpu": 0.1}, "b": {"gpu": 1.0}},
        accelerators={"gpu": 8},
        values={("a", "b"): RISING},
        prices={"gpu": "2.5"},
    )
    return replace(base, **changes)


def test_the_fewest_accelerators_that_give_the_quality_are_used() -> None:
    answer = instance(batches=(1,)).allocate(demand=0.3)
    assert sum(replicas(answer).values()) == 1
    assert answer.value == pytest.approx(1.0)
    assert answer.cost_per_hour == pytest.approx(2.5)


def test_the_budget_is_a_ceiling_and_is_named_when_it_binds() -> None:
    answer = instance(budgets={"gpu": "7.50"}).allocate(demand=6)
    assert sum(replicas(answer).values()) <= 3
    assert any("workers of class gpu cost 7.50 of its budgetPerHour of 7.50" in words for words in answer.binding)


def test_a_class_without_a_price_is_closed_to_a_cascade_with_a_budget() -> None:
    answer = instance(budgets={"gpu": "7.50"}, prices={}).allocate(demand=6)
    assert answer.verdict is Reason.NO_CAPACITY
    assert any("class gpu has no price" in words for words in answer.binding)


def test_an_objective_that_no_variant_meets_is_said() -> None:
    answer = instance(objective="50ms").allocate(demand=1)
    assert answer.verdict is Reason.NO_CAPACITY
    assert any("no variant makes one image within spec.objective.latency" in words for words in answer.binding)


def left_out(answer: Allocation) -> list[str]:
    return [words for words in answer.binding if "spec.objective.latency of" in words]


def test_what_the_objective_leaves_out_is_named_with_its_seconds() -> None:
    late = allocation(5, objective__latency="30ms")
    assert late.verdict is Reason.OPTIMAL
    (words,) = left_out(late)
    assert words == "spec.objective.latency of 0.03 s leaves out heavy (0.044 s an image)"
    assert left_out(allocation(60)) == []


def test_escalations_that_the_objective_leaves_out_are_named_where_they_would_be_better() -> None:
    values = {("a", "b"): (800, 950, 900, 850, 950, 900, 900, 900, 900)}
    (words,) = left_out(instance(objective="1150ms", values=values).allocate(demand=1))
    assert "1.15 s leaves out escalations from a to b (1.16 s for both images)" in words
    assert left_out(instance(objective="9s", values=values).allocate(demand=1)) == []


def test_headroom_is_named_where_it_keeps_time_from_better_images() -> None:
    words = "spec.policy.headroomPercent keeps 40% of their time free"
    assert words in allocation(60, policy__headroomPercent=40).binding
    assert words not in allocation(1, policy__headroomPercent=40).binding
    assert not any("headroomPercent" in each for each in allocation(60, policy__headroomPercent=0).binding)


def test_batches_are_used_where_they_serve_more_and_fit_the_objective() -> None:
    answer = instance(batch_exponent=0.3).allocate(demand=30)
    assert {pool.batch for pool in answer.pools.values()} == {4}
    hurried = instance(batch_exponent=0.3, objective="1500ms").allocate(demand=0.2)
    assert all(pool.batch == 1 for key, pool in hurried.pools.items() if key[0] == "b")


def test_only_one_chain_is_in_force() -> None:
    three = instance(
        seconds={"a": {"gpu": 0.1}, "b": {"gpu": 0.5}, "c": {"gpu": 2.0}},
        values={("a", "b"): [v * 4 // 5 for v in RISING], ("a", "c"): RISING, ("b", "c"): RISING},
    )
    answer = three.allocate(demand=5)
    assert len({p.row.chain for p in answer.mixture}) == 1
    assert len(answer.mixture) <= 3


def test_two_classes_serve_one_stage_together() -> None:
    both = instance(
        seconds={"a": {"small": 0.2, "large": 0.1}, "b": {"small": 2.0, "large": 1.0}},
        accelerators={"small": 2, "large": 2},
        prices={"small": "1", "large": "3"},
    )
    answer = both.allocate(demand=3)
    assert sum(replicas(answer).values()) == 4
    assert {key[1] for key in answer.pools} == {"small", "large"}


def two_cascades(weight: float) -> tuple[Allocation, Allocation]:
    one = instance(prices={}).cascade_problem(demand=6)
    other = replace(one, ref=replace(one.ref, name="other"), weight=weight * one.weight)
    answers = allocate(AllocationProblem((one, other), {"gpu": 6}, {}))
    return answers[one.ref], answers[other.ref]


def test_cascades_share_a_cluster_by_weight() -> None:
    even, fair = two_cascades(1.0)
    assert sum(replicas(even).values()) + sum(replicas(fair).values()) <= 6
    light, weighty = two_cascades(20.0)
    assert weighty.value > light.value
    assert weighty.value >= fair.value


def test_shares_on_what_is_left_of_the_pools_are_the_best_that_it_serves() -> None:
    problem = instance(prices={}).cascade_problem(demand=6)
    pools = {("a", "gpu"): PoolSize(1, 1), ("b", "gpu"): PoolSize(4, 1)}
    full = best_sharing(problem, pools)
    less = best_sharing(problem, pools | {("b", "gpu"): PoolSize(3, 1)})
    assert 0 < less.value < full.value < 1
    assert full.heavy_load == pytest.approx(4 * 0.95 / 6, abs=0.02)
    assert best_sharing(problem, {}).mixture == ()


def test_a_backlog_takes_from_the_pool_where_it_waits() -> None:
    problem = instance(prices={}).cascade_problem(demand=6)
    pools = {("a", "gpu"): PoolSize(1, 1), ("b", "gpu"): PoolSize(4, 1)}
    clear = best_sharing(problem, pools)
    clearing = best_sharing(problem, pools, backlog={"b": 2.0})
    assert clearing.heavy_load < clear.heavy_load - 0.2
    assert clearing.shed == 0


def test_what_must_make_room_is_not_of_the_variants_in_use() -> None:
    nothing = [0] * 9
    three = Instance(
        seconds={"a": {"gpu": 0.1}, "b": {"gpu": 0.5}, "c": {"gpu": 2.0}},
        accelerators={"gpu": 6},
        values={("a", "b"): [0, 1000, *nothing[2:]], ("a", "c"): nothing, ("b", "c"): nothing},
    )
    answer = three.allocate(demand=2, running={("b", "gpu"): 5, ("c", "gpu"): 1})
    assert replicas(answer) == {("a", "gpu"): 1, ("b", "gpu"): 5}


def test_two_classes_that_cannot_carry_the_load_serve_what_they_can() -> None:
    # One class is held by its use, the other by waiting: the limit is that of the sums, not the sum of the limits.
    instance = Instance(
        seconds={"a": {"small": 0.25, "large": 0.125}, "b": {"small": 1.0, "large": 0.5}},
        accelerators={"small": 1, "large": 2},
        values={("a", "b"): [28, 43, 100, 463, 519, 575, 778, 790, 915]},
        batch_exponent=1.0,
    )
    answer = instance.allocate(demand=30)
    assert answer.verdict is Reason.LOAD_SHED
    assert answer.shed == pytest.approx(0.367, abs=0.001)
