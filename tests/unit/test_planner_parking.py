"""A cascade without requests is parked: nothing runs, and the first request wakes it up."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_api.reasons import ConditionType, Reason
from cascade_api.settings import CPU, AcceleratorClass, Elastic, PlannerSettings
from cascade_operator.planning.memory import CascadeMemory, Memory, Target, TargetPool
from cascade_operator.planning.observed import observe
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


def test_workers_that_come_for_a_request_are_waited_for_however_long_their_nodes_take() -> None:
    asked_s, target = START, Target(pools=(TargetPool("light", "cpu", 1, 1),))
    memory = Memory({"default/shapes": CascadeMemory(target=target, parked=True, asked_at_s=asked_s)})
    cascade = make_cascade(policy__scaleToZeroAfter="20s")
    plan = ClosedLoop(lambda _: 10.0).run(5).plan
    view = make_view(cascade=cascade, profile=make_profile(), plan=plan, demand=Demand(((int(asked_s), 1),)))
    slow = CPU.model_copy(update={"elastic": Elastic(max=2, provision_seconds=60)})

    def idle(after_s: float, state: str, known: AcceleratorClass = slow, memory: Memory = memory) -> bool:
        snapshot = Snapshot((view,), {"cpu": 2}, (make_worker("cpu-0", "light", state=state),))
        return observe(view, snapshot, memory, asked_s + after_s, Preparations(PlannerSettings(), (known,))).idle

    # A start takes 2.35 s here, and a Node twice its 60 s at the most.
    assert not idle(20 + 122, "starting")
    assert idle(20 + 123, "starting"), "they never come"
    assert not idle(20 + 2, "starting", CPU)
    assert idle(20 + 3, "starting", CPU)
    assert idle(20 + 1, "ready")
    parked = Memory({"default/shapes": CascadeMemory(target=Target(), parked=True, asked_at_s=asked_s)})
    assert idle(20 + 1, "starting", memory=parked), "none was asked for"
