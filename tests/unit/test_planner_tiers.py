"""Requests with a tier are demand of their own: they take rows of their own, and the plan has what they leave."""

from __future__ import annotations

import pytest

from cascade_api.plan import Plan
from cascade_api.report import RouterReport
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.observed import LEAST_REQUESTS, tier_shares
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.snapshot import Publish, Snapshot, StartWorker, Worker
from support.factories import HEAVY_MS, make_cascade, make_demand, make_profile, make_view, make_worker, quality

NOW = 1_760_000_000.0
CHAIN = ("light", "heavy")
DEDICATED = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy"))
SHARED = tuple(make_worker(f"cpu-{i}", "light", "heavy", since_s=NOW - 60) for i in range(2))
HOSTINGS = pytest.mark.parametrize(("hosting", "workers"), [("dedicated", DEDICATED), ("shared", SHARED)])


def report(router: str = "r1", **tiers: int) -> RouterReport:
    return RouterReport(router=router, at_ms=0, plan_generation=1, received=0, recent_tiers=tiers)


def decided(
    rate: float, workers: tuple[Worker, ...], *, hosting: str, floor: str = "", memory_mib: int = 0, **tiers: int
) -> Decision:
    fields = {"objective__quality": {"noWorseThan": floor}} if floor else {}
    weighs = [{"variant": name, "class": "cpu", "restMiB": 100} for name in CHAIN]
    view = make_view(
        cascade=make_cascade(workers={"cpu": 4}, pool={"hosting": hosting}, **fields),
        demand=make_demand(rate, now=NOW),
        profile=make_profile(memory=weighs),
        reports=(report(**tiers),),
    )
    classes = [AcceleratorClass(name="cpu", resource="cpu", memory_mi_b=memory_mib)]
    return Planner(PlannerSettings(), classes=classes).decide(Snapshot((view,), {"cpu": 4}, workers), Memory(), NOW)


def plan_of(decision: Decision) -> Plan:
    return next(action.plan for action in decision.actions if isinstance(action, Publish))


def heavy_share(plan: Plan) -> float:
    return sum(row.share * row.heavy_share for row in plan.rows)


@HOSTINGS
def test_the_plan_has_the_cheapest_variant_and_the_best_row_for_tiers(
    hosting: str, workers: tuple[Worker, ...]
) -> None:
    tiers = plan_of(decided(40, workers, hosting=hosting)).tiers
    low, high = tiers["low"], tiers["high"]
    assert (low.chain, low.direct, low.escalation) == (CHAIN, 0, 0)
    assert high.chain == CHAIN
    assert quality(high.direct, high.escalation) == pytest.approx(0.98)


@HOSTINGS
def test_what_tiers_take_is_not_planned_for_the_others(hosting: str, workers: tuple[Worker, ...]) -> None:
    rate = 75
    plain = plan_of(decided(rate, workers, hosting=hosting))
    high = plan_of(decided(rate, workers, hosting=hosting, auto=70, high=30))
    low = plan_of(decided(rate, workers, hosting=hosting, auto=50, low=50))
    assert heavy_share(high) < heavy_share(plain) - 0.05
    assert heavy_share(low) > heavy_share(plain) + 0.05
    work = rate * (0.7 * heavy_share(high) + 0.3 * high.tiers["high"].heavy_share) * HEAVY_MS / 1000
    assert work <= 2, "all heavy work together is no more than the workers can do"


@HOSTINGS
def test_a_floor_holds_for_the_requests_that_leave_it_to_the_plan(hosting: str, workers: tuple[Worker, ...]) -> None:
    plain = plan_of(decided(10, workers, hosting=hosting, floor="0.85"))
    for tiers in ({"low": 50}, {"high": 20}):
        plan = plan_of(decided(10, workers, hosting=hosting, floor="0.85", auto=50, **tiers))
        assert plan.expected.quality == pytest.approx(plain.expected.quality, abs=2e-3)
        assert plan.expected.floor is not None
        assert plan.expected.floor.held


def test_more_workers_are_started_for_a_tier_that_takes_more_than_the_floor() -> None:
    def started(**tiers: int) -> int:
        decision = decided(90, (), hosting="shared", floor="0.8", **tiers)
        return len([action for action in decision.actions if isinstance(action, StartWorker)])

    assert started(auto=50, high=50) > started()


def test_where_no_worker_hosts_the_variant_of_a_tier_the_others_are_served_as_ever() -> None:
    light_only = (make_worker("cpu-0", "light"), make_worker("cpu-1", "light"))
    plan = plan_of(decided(20, light_only, hosting="shared", memory_mib=150, auto=50, high=50))
    assert heavy_share(plan) == 0
    assert set(plan.tiers) <= {"low", "high"}
    assert all(row.heavy_share == 0 for row in plan.tiers.values())


def test_the_shares_of_tiers_are_those_of_all_routers_and_of_enough_requests() -> None:
    assert tier_shares([report("r1", auto=30, high=20), report("r2", auto=40, low=10)]) == tier_shares(
        [report(auto=70, high=20, low=10)]
    )
    shares = tier_shares([report(auto=70, high=20, low=10)])
    assert (shares.low, shares.high) == (pytest.approx(0.1), pytest.approx(0.2))
    assert tier_shares([report(high=LEAST_REQUESTS - 1)]) == tier_shares([]) == tier_shares([report(auto=90)])
    everything = tier_shares([report(high=90)])
    assert everything.rest > 0
