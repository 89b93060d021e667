"""A quality floor (`spec.objective.quality`): what is planned to hold it, and what is said if it cannot be held."""

from __future__ import annotations

import pytest

from cascade_api.cascade import DiffusionCascade
from cascade_api.explanations import plan_line
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType, Reason
from cascade_api.settings import PlannerSettings
from cascade_api.status import CascadeStatus
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Planner
from cascade_operator.snapshot import Publish, SetStatus, Snapshot, Worker
from support.factories import make_cascade, make_demand, make_profile, make_view, make_worker
from support.pool_world import PoolWorld, on_pool, pool_of

NOW = 1_760_000_000.0
DEDICATED = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy"))
SHARED = tuple(make_worker(f"cpu-{i}", "light", "heavy", since_s=NOW - 60) for i in range(2))
HOSTINGS = pytest.mark.parametrize(("hosting", "workers"), [("dedicated", DEDICATED), ("shared", SHARED)])


def floored(floor: str, *, hosting: str = "dedicated") -> DiffusionCascade:
    fields = {"objective__quality": {"noWorseThan": floor}} if floor else {}
    return make_cascade(pool={"hosting": hosting}, **fields)


def decided(cascade: DiffusionCascade, rate: float, workers: tuple[Worker, ...]) -> tuple[Plan, CascadeStatus]:
    view = make_view(cascade=cascade, demand=make_demand(rate, now=NOW), profile=make_profile())
    decision = Planner(PlannerSettings()).decide(Snapshot((view,), {"cpu": 2}, workers), Memory(), NOW)
    plan = next(action.plan for action in decision.actions if isinstance(action, Publish))
    return plan, next(action.status for action in decision.actions if isinstance(action, SetStatus))


def optimal(status: CascadeStatus) -> tuple[str, Reason, str]:
    found = status.condition(ConditionType.ALLOCATION_OPTIMAL)
    assert found is not None
    return found.status, found.reason, found.message


def heavy_share(plan: Plan) -> float:
    return sum(row.share * row.heavy_share for row in plan.rows)


@HOSTINGS
def test_a_floor_is_held_and_no_more_than_held(hosting: str, workers: tuple[Worker, ...]) -> None:
    free, _ = decided(floored("", hosting=hosting), 5, workers)
    plan, status = decided(floored("0.85", hosting=hosting), 5, workers)
    assert plan.expected.quality == pytest.approx(0.85, abs=1e-3)
    assert free.expected.quality > 0.9
    assert heavy_share(plan) < heavy_share(free)
    assert optimal(status) == ("True", Reason.OPTIMAL, "the quality floor is held at the least cost")
    assert status.quality is not None
    assert (status.quality.no_worse_than, status.quality.held) == ("0.85", True)
    assert "(no worse than 0.85: held)" in plan_line(plan)


@HOSTINGS
def test_a_floor_that_cannot_be_held_gets_the_best_quality_and_says_by_how_much_it_is_missed(
    hosting: str, workers: tuple[Worker, ...]
) -> None:
    free, _ = decided(floored("", hosting=hosting), 90, workers)
    plan, status = decided(floored("0.94", hosting=hosting), 90, workers)
    assert plan.expected.quality == pytest.approx(free.expected.quality, abs=0.02)
    assert plan.expected.quality < 0.94
    truth, reason, message = optimal(status)
    assert (truth, reason) == ("False", Reason.QUALITY_BELOW_FLOOR)
    assert status.quality is not None
    missed = 0.94 - float(status.quality.expected)
    assert f"spec.objective.quality.noWorseThan of 0.94 is missed by {missed:.2g}" in message
    assert "all 2 cpu accelerators that spec.workers allows are in use" in message
    assert not status.quality.held
    assert "(no worse than 0.94: not held)" in plan_line(plan)


@HOSTINGS
def test_a_floor_above_the_best_row_is_told_its_value(hosting: str, workers: tuple[Worker, ...]) -> None:
    best = max(row.values_milli["q2"] / 1000 for row in make_profile().spec.quality)
    _, status = decided(floored("0.999", hosting=hosting), 1, workers)
    truth, reason, message = optimal(status)
    assert (truth, reason) == ("False", Reason.QUALITY_BELOW_FLOOR)
    assert message.endswith(f"the best row of the profile that is in time has {best:.4g}: ask for no more than that")


def test_on_a_pool_the_rest_goes_to_others_when_a_cascade_is_at_its_floor() -> None:
    pool = pool_of()
    rates = {"anna": 40.0, "bert": 40.0}

    def world(floor: str) -> PoolWorld:
        fields = {"objective__quality": {"noWorseThan": floor}} if floor else {}
        made = PoolWorld(
            [on_pool("anna", pool=pool, **fields), on_pool("bert", pool=pool)], rates=rates, accelerators=2
        )
        made.tick(6)
        return made

    even, uneven = world(""), world("0.8")
    assert uneven.plan_of("anna").expected.quality == pytest.approx(0.8, abs=2e-3)
    assert even.plan_of("anna").expected.quality > 0.81
    assert uneven.plan_of("bert").expected.quality > even.plan_of("bert").expected.quality + 0.01
