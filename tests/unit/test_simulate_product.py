"""The product in the simulator: every request ends once, runs repeat, overload degrades, failures are survived."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import build
from cascade_api.reasons import ConditionType, Reason
from cascade_api.settings import CPU, PlannerSettings
from cascade_operator.planning.planner import Planner
from cascade_profiler.simulate.campaign import accelerator_class
from cascade_profiler.simulate.cascades import cascade_of
from cascade_profiler.simulate.outcomes import Way
from cascade_profiler.simulate.production import ProductionSystem
from cascade_profiler.simulate.quality import realised_quality
from cascade_profiler.simulate.runs import Failure, NoNodes, Run, Scenario
from cascade_profiler.simulate.turns import Turns
from support.simulation import Reporting, make_profile, make_scenario, play_zero, zero_manifest


def played(scenario: Scenario, *, policy: str = "hybrid") -> Run:
    return ProductionSystem(scenario, policy=policy, planner=Planner(PlannerSettings())).run(lambda part: None)


def test_every_request_ends_once_and_the_same_seed_repeats_everything() -> None:
    first, again, other = (played(make_scenario("poisson:rate=6,seconds=25", seed=seed)) for seed in (1, 1, 2))
    assert len(first.outcomes.way) == len(make_scenario("poisson:rate=6,seconds=25", seed=1).trace.times_s)
    assert first.outcomes.latency_s.tolist() == again.outcomes.latency_s.tolist()
    assert first.outcomes.way.tolist() == again.outcomes.way.tolist()
    assert [c.says for c in first.changes] == [c.says for c in again.changes]
    assert first.outcomes.latency_s.tolist() != other.outcomes.latency_s.tolist()


def test_a_trace_begins_with_what_its_opening_rate_needs() -> None:
    opening = played(make_scenario("poisson:rate=6,seconds=20")).outcomes
    assert not opening.violations[opening.arrival_s < 3].any()


def test_shares_served_follow_the_plan_at_a_steady_load() -> None:
    run = played(make_scenario("poisson:rate=4,seconds=60"))
    outcomes = run.outcomes
    steady = outcomes.arrival_s > 20
    heavy = np.isin(outcomes.way, (Way.DIRECT, Way.ESCALATED))
    shares = np.asarray([outcomes.rows[row].direct for row in outcomes.row[steady]])
    escalations = np.asarray([outcomes.rows[row].escalation for row in outcomes.row[steady]])
    planned = float(np.mean(shares + (1 - shares) * escalations))
    assert float(heavy[steady].mean()) == pytest.approx(planned, abs=0.08)
    assert outcomes.violations[steady].mean() < 0.02


def test_answers_are_never_late_because_what_would_be_is_degraded_or_refused() -> None:
    run = played(make_scenario("flash:rate=4,factor=8,at=15,length=4,seconds=35", workers=2))
    assert not run.outcomes.late.any()


def test_a_lost_accelerator_costs_little_and_comes_back() -> None:
    run = played(make_scenario("poisson:rate=4,seconds=40", failures=(Failure(10.0, 15.0, 1),)))
    assert run.outcomes.lost.mean() < 0.05
    busiest = [sum(change.replicas.values()) for change in run.changes if change.at_s > 12]
    assert min(busiest) <= 3
    assert sum(run.changes[-1].replicas.values()) == 4


def test_a_cascade_that_nobody_asks_is_parked_and_its_next_requests_wait_for_it(tmp_path: Path) -> None:
    run = play_zero(tmp_path, [0, 1, 2, 60, 75, 80])
    parked = [change.at_s for change in run.changes if not change.replicas]
    assert parked
    assert 12 < min(parked) < 30, "ten seconds after the last request, and two decisions that are five seconds apart"
    assert not run.outcomes.lost.any()
    first, *others = run.outcomes.latency_s[3:]
    assert 1 < first < 7, "the first waits for a decision and for a cold start of a second"
    assert max(others) < first
    assert run.changes[-1].replicas == {"shapes-light": 1, "shapes-heavy": 1}


def test_a_node_that_does_not_exist_yet_takes_its_seconds_to_come(tmp_path: Path) -> None:
    asked = [0, 1, 2, 90, 130]
    there = play_zero(tmp_path, asked).outcomes
    comes = play_zero(tmp_path, asked, provision_s=20).outcomes
    assert not comes.lost.any()
    assert not comes.lost[:3].any(), "the Nodes for the beginning came before it"
    later_s = comes.latency_s - there.latency_s
    # Both wait for a decision, at most a tick of five seconds apart.
    assert 20 - 5 <= later_s[3] <= 20 + 5
    assert later_s[:3].tolist() == pytest.approx([0, 0, 0], abs=0.1)


def test_a_node_that_does_not_come_is_a_condition_and_comes_later(tmp_path: Path) -> None:
    planner = Reporting(PlannerSettings(), classes=[accelerator_class(CPU.name, 2, 5)])
    none = (NoNodes(80.0, 40.0),)
    run = play_zero(tmp_path, [0, 1, 2, 90, 91, 200, 201], provision_s=5, no_nodes=none, planner=planner)
    conditions = [status.condition(ConditionType.POOLS_AVAILABLE) for status in planner.statuses]
    failing = [c.message for c in conditions if c is not None and c.reason is Reason.REPLICAS_FAILING]
    assert failing
    assert "no Node had room for it within 10 s" in failing[0]
    # For fifty seconds none is asked for, so what came meanwhile is refused; afterwards all is as before.
    assert run.outcomes.lost.tolist() == [False, False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--elastic", "0"], "--elastic: '0' is not a number of seconds from 1 to 7200"),
        (["--elastic", "gpu=30"], "--elastic: there are no workers of class 'gpu', but of cpu"),
        (["--elastic", "30", "--policy", "hadis"], "--elastic: the published system hadis has a fixed fleet"),
        (["--no-nodes", "10:20"], "--no-nodes: needs --elastic"),
        (["--elastic", "30", "--no-nodes", "10"], "--no-nodes: '10' is not AT:FOR"),
    ],
)
def test_wrong_nodes_are_refused_by_the_option(options: list[str], told: str) -> None:
    asked = ["simulate", "--profile", "examples/shapes.yaml", "--trace", "poisson:rate=1,seconds=5", *options]
    result = CliRunner().invoke(build(), asked)
    assert result.exit_code != 0
    assert told in str(result.exception)


def test_variants_alone_are_charged_with_their_own_quality() -> None:
    scenario = make_scenario("poisson:rate=1,seconds=60", profile=make_profile(alone=True), workers=4)
    run = played(scenario)
    assert not run.outcomes.lost.any()
    assert set(run.outcomes.way.tolist()) == {Way.DIRECT}
    assert {row.chain for row in run.outcomes.rows} == {("heavy",)}
    values = realised_quality(run.outcomes, scenario.profile.charges)
    assert values == pytest.approx(20.0)


def test_a_light_batch_serves_more_than_single_images_could() -> None:
    profile = make_profile(light_s=0.1, heavy_s=1.0, batches={2: 0.12, 4: 0.16, 8: 0.24})
    outcomes = played(make_scenario("poisson:rate=20,seconds=30", profile=profile, workers=1)).outcomes
    settled = outcomes.arrival_s > 12  # the one worker begins with the heavy variant, since nobody asks for anything
    assert outcomes.violations[settled].mean() < 0.02
    assert np.count_nonzero(settled) > 300


def test_the_command_prints_the_figures_of_each_policy_as_json() -> None:
    result = CliRunner().invoke(
        build(),
        ["simulate", "--profile", "examples/shapes.yaml", "--trace", "poisson:rate=10,seconds=5",
         "--policy", "hadis,hybrid", "--seeds", "2", "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    policies = json.loads(result.stdout)["policies"]
    assert [policy["name"] for policy in policies] == ["hadis", "hybrid"]
    assert set(policies[0]) == {"name", "seeds"} | {
        name + spread
        for name in (
            "quality_time_mean", "quality_request_mean", "quality_planned_mean", "violation_percent",
            "degraded_percent", "dropped_percent", "p50_s", "p99_s", "switches", "gpu_seconds",
        )
        for spread in ("", "_sd")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "best"], "--policy: 'best' is unknown"),
        (["--workers", "0"], "--workers: '0' is not a number of accelerators"),
        (["--workers", "gpu=2"], "class 'gpu' is not in the profile"),
        (["--objective", "1ms"], "is less than any variant takes"),
        (["--fail", "1:2"], "--fail: '1:2' is not AT:FOR:COUNT"),
        (["--scorer", "guess"], "--scorer: 'guess' is none of"),
    ],
)
def test_bad_options_are_named(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(
        build(),
        ["simulate", "--profile", "examples/shapes.yaml", "--trace", "poisson:rate=1,seconds=2", *arguments],
    )
    assert result.exit_code != 0
    assert says in str(result.exception)


def test_the_report_is_one_page_with_its_plots(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    result = CliRunner().invoke(
        build(),
        ["simulate", "--profile", "examples/shapes.yaml", "--trace", "poisson:rate=10,seconds=12",
         "--policy", "hadis", "--seeds", "1", "--report", str(target)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    text = target.read_text(encoding="utf-8")
    for title in ("Realised quality", "Violations", "Plans:", "Latency", "Replicas under hadis"):
        assert title in text
    assert text.count("<svg") == 5
    assert "http-equiv" not in text
    assert "src=" not in text


def test_the_command_line_says_what_workers_host_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").write_text(zero_manifest())
    options = ["simulate", "--profile", str(tmp_path / "zero.yaml"), "--trace", "poisson:rate=1,seconds=20"]

    def run(*more: str) -> str:
        result = CliRunner().invoke(build(), [*options, "--seeds", "1", "--json", *more])
        return str(result.exception) if result.exit_code else json.loads(result.stdout)["policies"][0]["name"]

    assert run("--hosting", "shared") == "hybrid"
    assert run("--hosting", "shared", "--turns", "even") == "hybrid"
    assert "--hosting: 'split' is none of shared, dedicated" in run("--hosting", "split")
    assert "--turns: 'fair' is none of short-first, even" in run("--hosting", "shared", "--turns", "fair")


@pytest.mark.parametrize("turns", list(Turns))
def test_workers_that_host_all_variants_follow_the_load_without_a_move(turns: Turns) -> None:
    def run(hosted: Turns | None) -> Run:
        # Two workers, from less than one heavy image a second to four, which only cheaper images can serve.
        return played(make_scenario("diurnal:low=0.5,high=4,period=40,seconds=80", workers=2, turns=hosted))

    shared, dedicated = run(turns), run(None)
    assert shared.switches == 0
    assert dedicated.switches > 0
    assert not shared.outcomes.late.any()
    assert shared.outcomes.lost.mean() <= 0.01
    quality = [np.nanmean(realised_quality(each.outcomes, make_profile().charges)) for each in (shared, dedicated)]
    assert quality[0] > quality[1]


def test_shared_workers_keep_most_requests_in_time_where_nothing_is_degraded() -> None:
    profile = make_profile()
    document = cascade_of(profile, workers={"gpu": 2}, objective_s=6.0, policy="hybrid", scorer=None).wire()
    document["spec"]["policy"]["overload"] = "strict"
    document["spec"]["workers"][0] |= {"hosting": "shared", "min": 2}
    strict = replace(profile, cascade=DiffusionCascade.model_validate(document))
    run = played(make_scenario("poisson:rate=3,seconds=150", profile=strict, workers=2, turns=Turns.SHORT_FIRST))
    assert run.outcomes.violations.mean() <= 0.02
    assert np.isin(run.outcomes.way, (Way.DIRECT, Way.ESCALATED)).mean() > 0.2
