"""Whether what a running cascade does is what its profile says."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_api.documents import load_cascades
from cascade_api.profile import ProfileSpec
from cascade_api.report import RouterReport
from cascade_profiler.measure.comparing import LEAST_BATCHES, Served, distance, score_findings, time_findings
from cascade_profiler.measure.drift import WatchedModel, watched_models
from support.router import make_plan, weights_of
from support.triton import EXAMPLE, HEAVY, LIGHT


@pytest.fixture(scope="module")
def profile() -> ProfileSpec:
    file = load_cascades(EXAMPLE.read_text(), source=str(EXAMPLE))
    return file.profile_of(file.cascades[0]).spec  # type: ignore[union-attr]


def heavy(profile: ProfileSpec, factor: float, *, batch: int = 1, count: int = 20) -> Served:
    row = next(r for r in profile.execution if (r.variant, r.batch) == ("shapes-heavy", batch))
    return Served("shapes-heavy", "cpu", batch, count, factor * row.p50_micros / 1e6)


@pytest.mark.parametrize(("factor", "drifted"), [(1.0, False), (1.2, False), (1.3, True), (0.5, True)])
def test_a_time_drifts_by_more_than_its_tolerance(profile: ProfileSpec, factor: float, drifted: bool) -> None:
    (finding,) = time_findings([heavy(profile, factor)], profile, tolerance=0.25)
    assert finding.drifted is drifted
    assert "shapes-heavy on cpu, batch 1" in finding.line()


def test_a_light_batch_may_be_judged_or_not(profile: ProfileSpec) -> None:
    light = next(r for r in profile.execution if (r.variant, r.batch) == ("shapes-light", 1)).p50_micros
    judging = profile.discriminator[0].p50_micros
    for micros in (light, light + judging):
        (finding,) = time_findings([Served("shapes-light", "cpu", 1, 9, micros / 1e6)], profile, tolerance=0.01)
        assert not finding.drifted


def test_a_batch_between_measured_sizes_is_held_against_what_lies_between(profile: ProfileSpec) -> None:
    row = {r.batch: r.p50_micros for r in profile.execution if r.variant == "shapes-heavy"}
    (finding,) = time_findings([Served("shapes-heavy", "cpu", 3, 9, (row[2] + row[4]) / 2e6)], profile, tolerance=0.01)
    assert not finding.drifted


def test_a_few_batches_say_nothing_and_an_unknown_class_drifted(profile: ProfileSpec) -> None:
    assert not list(time_findings([heavy(profile, 3.0, count=LEAST_BATCHES - 1)], profile, tolerance=0.25))
    (finding,) = time_findings([Served("shapes-heavy", "gpu", 1, 9, 0.1)], profile, tolerance=0.25)
    assert finding.drifted


def report(profile: ProfileSpec, *, received: int = 1000, shift: float = 0.0) -> RouterReport:
    confidence = [point / 1000 - shift for point in profile.scores.confidence_milli["shapes-light"]]
    hardness = [point / 1000 for point in profile.scores.hardness_milli]
    return RouterReport(
        router="a",
        at_ms=0,
        plan_generation=1,
        received=received,
        hardness=hardness,
        confidence={"shapes-light": confidence},
    )


def test_scores_drift_where_their_distribution_moves(profile: ProfileSpec) -> None:
    assert not any(finding.drifted for finding in score_findings([report(profile)], profile))
    found = {finding.subject: finding.drifted for finding in score_findings([report(profile, shift=0.3)], profile)}
    assert found == {"hardness": False, "confidence of shapes-light": True}
    assert not list(score_findings([report(profile, received=3, shift=0.3)], profile))


def test_the_distance_of_distributions_is_that_of_their_functions() -> None:
    points = np.linspace(0, 1, 21)
    assert distance(points, points) == pytest.approx(0)
    assert distance(points, points + 2) == pytest.approx(1, abs=0.05)
    assert distance(points, points + 0.25) == pytest.approx(0.25, abs=0.05)


def test_each_worker_is_asked_for_the_model_and_settings_of_its_variant() -> None:
    plan = make_plan({"shapes-light": ["a:1"], "shapes-heavy": ["b:1"]})
    heavy, light = (plan.variants[name].settings for name in ("shapes-heavy", "shapes-light"))
    assert watched_models(plan) == [
        WatchedModel("shapes-heavy", "cpu", "b:1", HEAVY, heavy),
        WatchedModel("shapes-light", "cpu", "a:1", LIGHT, light),
    ]


def test_a_worker_that_serves_two_variants_of_the_same_weights_is_asked_for_both() -> None:
    pair = ("shapes-heavy", "shapes-slow")
    hosts, credits = [weights_of("shapes-heavy")], dict.fromkeys(pair, 1)
    workers = [{"id": "w", "endpoint": "a:1", "class": "cpu", "state": "ready", "hosts": hosts, "credits": credits}]
    plan = make_plan(dict.fromkeys(pair, ()), chain=pair, workers=workers)
    assert watched_models(plan) == [
        WatchedModel(name, "cpu", "a:1", HEAVY, plan.variants[name].settings) for name in pair
    ]
