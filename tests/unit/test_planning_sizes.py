"""Several sizes: what the planner makes of the mix that comes, and what the same stack is worth that knows of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cascade_api.cascade import DiffusionCascade
from cascade_api.report import RouterReport
from cascade_api.settings import PlannerSettings
from cascade_operator.planning.planner import Planner
from cascade_operator.planning.prepared import prepare
from cascade_operator.planning.sizes import next_mix
from cascade_profiler.frontier.profiles import LoadedProfile
from cascade_profiler.simulate.cascades import cascade_of
from cascade_profiler.simulate.outcomes import Way
from cascade_profiler.simulate.production import ProductionSystem
from cascade_profiler.simulate.runs import Run
from cascade_router.cascade.estimates import REMEMBERED_S, ArrivedSizes
from support.simulation import make_profile, make_scenario

WORKS = {"32x32": 1.0, "16x16": 0.25, "48x48": 2.25}
SIZES = list(WORKS)


def sized_profile(**more: bool) -> LoadedProfile:
    """The small profile with times at three sizes."""
    profile = make_profile(**more)
    rows = [
        row.model_copy(
            update={
                "size": size,
                "p50_micros": round(work * row.p50_micros),
                "p95_micros": round(work * row.p95_micros),
                "memory_mi_b": round(100 * work),
            }
        )
        for size, work in WORKS.items()
        for row in profile.profile.spec.execution
    ]
    spec = profile.profile.spec.model_copy(update={"execution": rows})
    return replace(profile, sized=profile.profile.model_copy(update={"spec": spec}))


def cascade() -> DiffusionCascade:
    return cascade_of(sized_profile(), workers={"gpu": 4}, objective_s=6.0, policy="hybrid", scorer=None, sizes=SIZES)


def report(**arrived: float) -> RouterReport:
    named = {name.replace("s", "", 1): count for name, count in arrived.items()}
    return RouterReport(router="r", at_ms=0, plan_generation=1, received=0, arrived=named)


def test_a_request_is_planned_as_the_mean_work_with_the_largest_sizes_tail() -> None:
    profile = sized_profile().sized
    assert profile is not None
    prepared = prepare(
        cascade(), profile, settings=PlannerSettings(), classes=[], mix={"32x32": 0.5, "16x16": 0.25, "48x48": 0.25}
    )
    own = prepared.default_timings.execution_s("heavy", "gpu")[1]
    assert prepared.timings.execution_s("heavy", "gpu")[1] == pytest.approx(own * (0.5 + 0.25 / 4 + 0.25 * 2.25))
    (single, *_) = [row for row in prepared.profile.execution if (row.variant, row.batch) == ("heavy", 1)]
    assert single.p95_micros == pytest.approx(2.25 * own * 1e6)
    assert single.memory_mi_b == 225, "that of the size that takes most"
    told = prepared.seconds("heavy", "gpu")
    assert list(told) == SIZES
    assert told["48x48"][1] == pytest.approx(2.25 * own)


def test_a_batch_that_was_not_measured_at_one_of_the_sizes_is_not_planned() -> None:
    profile = sized_profile().sized
    assert profile is not None
    rows = [row for row in profile.spec.execution if row.batch == 1 or row.size != "48x48"]
    lacking = profile.model_copy(update={"spec": profile.spec.model_copy(update={"execution": rows})})
    prepared = prepare(cascade(), lacking, settings=PlannerSettings(), classes=[])
    assert {batch for key in prepared.keys for batch in prepared.timings.execution_s(*key)} == {1}


def test_the_mix_follows_what_routers_report_and_not_chance() -> None:
    first = next_mix(SIZES, reports=(), last={})
    assert first == pytest.approx(dict.fromkeys(SIZES, 1 / 3), abs=1e-3), "nothing is known"
    many = [report(s32x32=400.0, s16x16=50.0), report(s32x32=400.0, s16x16=50.0, s99x99=1000.0)]
    followed = next_mix(SIZES, reports=many, last=first)
    assert followed == pytest.approx({"32x32": 0.887, "16x16": 0.112, "48x48": 0.001}, abs=1e-3)
    assert next_mix(SIZES, reports=[report(s32x32=795.0, s16x16=105.0)], last=followed) == followed, "chance"
    assert next_mix(SIZES, reports=(), last=followed) == followed, "nobody reports"


def test_routers_forget_the_sizes_of_long_ago() -> None:
    arrived = ArrivedSizes()
    for second in range(100):
        arrived.observe("16x16", now=float(second))
    before = arrived.counts(now=100.0)["16x16"]
    assert 80 < before < 100
    arrived.observe("32x32", now=100.0 + REMEMBERED_S)
    assert arrived.counts(now=100.0 + REMEMBERED_S) == pytest.approx({"16x16": before / 2.718, "32x32": 1.0}, rel=1e-3)
    assert arrived.counts(now=1e6) == {}


def played(*, blind: bool, rate: float) -> Run:
    scenario = make_scenario(f"poisson:rate={rate:g},seconds=100", profile=sized_profile(), workers=16, seed=3)
    scenario = replace(scenario, sizes=dict.fromkeys(SIZES, 1.0), blind=blind)
    return ProductionSystem(scenario, policy="hybrid", planner=Planner(PlannerSettings())).run(lambda part: None)


def test_mixed_sizes_are_in_time_and_the_plan_knows_their_work() -> None:
    knowing, blind = (played(blind=blind, rate=16.0) for blind in (False, True))
    assert knowing.outcomes.violations.mean() <= 0.001
    assert knowing.figures["planned_work_s"] / knowing.gpu_seconds == pytest.approx(1, abs=0.03)
    assert knowing.outcomes.violations.mean() <= blind.outcomes.violations.mean()
    degraded = [float((run.outcomes.way == Way.DEGRADED).mean()) for run in (knowing, blind)]
    assert 5 * degraded[0] < degraded[1], "each image is taken for one of the default size"
