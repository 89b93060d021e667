"""A cascade without requests is parked: nothing runs, and the first request wakes it up."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_api.reasons import ConditionType, Reason
from cascade_api.report import RouterReport
from cascade_api.settings import CPU, PlannerSettings
from cascade_operator.planning.memory import CascadeMemory, Memory
from cascade_operator.planning.observed import Observed, observe
from cascade_operator.planning.prepared import Preparations
from cascade_operator.snapshot import Demand, Snapshot
from support.closed_loop import START, ClosedLoop
from support.factories import make_cascade, make_profile, make_view, make_worker


def make_loop(*, busy_until: float, again_from: float = 1e9, **overrides: Any) -> ClosedLoop:
    """Ten requests a second until ``busy_until``, and once more from ``again_from`` on."""
    values = {"policy__scaleToZeroAfter": "20s", **overrides}
    return ClosedLoop(lambda at: 10.0 if at < busy_until or at >= again_from else 0.0, cascade=make_cascade(**values))


def test_after_the_idle_time_nothing_runs_and_the_plan_and_the_status_say_so() -> None:
    loop = make_loop(busy_until=5).run(20)
    assert loop.ready
    loop.run(20)
    assert loop.workers == {}
    assert loop.plan is not None
    assert loop.plan.parked
    assert [(pool.name, pool.workers) for pool in loop.plan.pools] == [("heavy.cpu", ()), ("light.cpu", ())]
    assert loop.plan.reason is Reason.PARKED
    assert loop.status is not None
    ready = loop.status.condition(ConditionType.READY)
    assert ready is not None
    assert (ready.status, ready.reason) == ("True", Reason.PARKED)
    assert loop.status.cost_per_hour == "0.00"
    plans = len(loop.history)
    loop.run(60)
    assert len(loop.history) == plans, "what is parked stays as it is"


def test_the_first_request_brings_it_back_and_the_plan_says_parked_until_then() -> None:
    loop = make_loop(busy_until=5, again_from=60).run(59.5)
    assert loop.workers == {}
    loop.run(10)
    assert loop.ready == ["heavy", "light"]
    assert loop.plan is not None
    assert not loop.plan.parked
    served = [plan for at, plan in loop.history if at > 60 and not plan.parked]
    assert served
    assert any(pool.ready for pool in served[0].pools)


def test_a_lost_memory_wakes_nobody() -> None:
    loop = make_loop(busy_until=5).run(45)
    loop.memory = Memory()
    loop.run(30)
    assert loop.workers == {}


def test_a_new_cascade_runs_for_the_idle_time_first() -> None:
    loop = make_loop(busy_until=0).run(15)
    assert loop.ready == ["heavy", "light"]
    loop.run(25)
    assert loop.workers == {}


@pytest.mark.parametrize(
    "overrides", [{"policy__scaleToZeroAfter": None}, {"light__minHosts": 1}, {"pool": {"min": 1}}]
)
def test_without_leave_it_never_parks(overrides: dict[str, Any]) -> None:
    loop = make_loop(busy_until=5, **overrides).run(60)
    assert loop.ready


def test_what_is_not_known_parks_nobody() -> None:
    loop = make_loop(busy_until=5).run(6)
    loop.demand_known = False
    loop.run(60)
    assert loop.ready


def test_nobody_is_idle_while_a_request_waits_in_a_router_and_the_time_counts_from_then_on() -> None:
    plan = ClosedLoop(lambda _: 10.0).run(5).plan
    memory = Memory({"default/shapes": CascadeMemory(parked=True, asked_at_s=START)})

    def seen(after_s: float, *, waiting: int, memory: Memory = memory) -> Observed:
        report = RouterReport(router="r", at_ms=0, plan_generation=1, received=1, waiting=waiting)
        cascade, demand = make_cascade(policy__scaleToZeroAfter="20s"), Demand(((int(START), 1),))
        view = make_view(cascade=cascade, profile=make_profile(), plan=plan, demand=demand, reports=(report,))
        snapshot = Snapshot((view,), {"cpu": 2}, (make_worker("cpu-0", "light"),))
        return observe(view, snapshot, memory, START + after_s, Preparations(PlannerSettings(), (CPU,)))

    assert seen(21, waiting=0).idle
    waits = seen(100, waiting=1)
    assert not waits.idle
    later = Memory({"default/shapes": CascadeMemory(parked=True, asked_at_s=waits.asked_at_s)})
    assert not seen(119, waiting=0, memory=later).idle
    assert seen(121, waiting=0, memory=later).idle
