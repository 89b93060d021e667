"""The published systems reproduce their published figures on the trace of the publication."""

from __future__ import annotations

import pytest

from cascade_profiler.frontier.profiles import load_profile
from cascade_profiler.simulate.baselines.catalogue import published_system
from cascade_profiler.simulate.campaign import CampaignRequest, simulate
from support.simulation import make_scenario, needs_reference


def figures(policy: str, *, seeds: int = 2, trace: str = "hadis_1to64") -> dict[str, float]:
    request = CampaignRequest(load_profile("hadis-726"), trace, (policy,), {"nvidia-l40s": 16}, 6.0, seeds)
    (result,) = simulate(request, told=lambda policy, seed, part: None)
    return result.figures


@needs_reference
def test_hadis_as_published() -> None:
    found = figures("hadis", seeds=3)
    assert found["quality_planned_mean"] == pytest.approx(22.93, abs=0.1)
    assert found["quality_time_mean"] == pytest.approx(23.47, abs=0.15)
    assert found["quality_request_mean"] == pytest.approx(24.21, abs=0.15)
    assert found["violation_percent"] == pytest.approx(1.15, abs=0.5)
    assert found["p99_s"] == pytest.approx(6.1, abs=0.5)
    assert found["switches"] == pytest.approx(432, rel=0.15)


@needs_reference
def test_the_shortest_queue_alone_takes_the_violations_away() -> None:
    found = figures("hadis-jsq")
    assert found["quality_planned_mean"] == pytest.approx(22.67, abs=0.12)
    assert found["violation_percent"] < 0.1
    assert found["p99_s"] == pytest.approx(3.9, abs=0.4)


@needs_reference
def test_diffserve_reports_the_published_figure_and_drowns_less_than_proteus() -> None:
    diffserve, proteus = figures("diffserve"), figures("proteus")
    assert diffserve["quality_planned_mean"] == pytest.approx(24.13, abs=0.1)
    assert 3 < diffserve["violation_percent"] < 12
    assert diffserve["p99_s"] == pytest.approx(7.8, abs=0.9)
    assert proteus["violation_percent"] > 2 * diffserve["violation_percent"]


@needs_reference
def test_one_model_for_everything() -> None:
    light, heavy = figures("all-light", seeds=1), figures("all-heavy", seeds=1)
    assert light["quality_time_mean"] == pytest.approx(29.76, abs=0.02)
    assert light["violation_percent"] == 0
    assert light["p99_s"] == pytest.approx(0.15, abs=0.05)
    assert heavy["quality_time_mean"] == pytest.approx(20.0, abs=0.1)
    assert heavy["violation_percent"] == pytest.approx(83, abs=2)


@needs_reference
def test_a_switch_that_costs_a_pod_start_ruins_hadis() -> None:
    request = CampaignRequest(
        load_profile("hadis-726"), "hadis_1to64", ("hadis",), {"nvidia-l40s": 16}, 6.0, 1, switch_s=4.5
    )
    (dear,) = simulate(request, told=lambda policy, seed, part: None)
    assert dear.figures["violation_percent"] > 5


@pytest.mark.parametrize("policy", ["all-light", "all-heavy", "proteus", "diffserve", "diffserve-static", "hadis"])
def test_every_request_ends_once_and_seeds_repeat(policy: str) -> None:
    runs = [
        published_system(policy, make_scenario("poisson:rate=8,seconds=40", seed=5)).run(lambda part: None)
        for _ in range(2)
    ]
    assert len(runs[0].outcomes.way) == len(make_scenario("poisson:rate=8,seconds=40", seed=5).trace.times_s)
    assert runs[0].outcomes.latency_s.tolist() == runs[1].outcomes.latency_s.tolist()
