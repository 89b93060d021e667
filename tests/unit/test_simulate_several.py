"""Several cascades in one simulation, on the WorkerPool that they share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cascade_api.command import build
from cascade_api.documents import load_cascades
from cascade_api.settings import PlannerSettings
from cascade_operator.planning.planner import Planner
from cascade_profiler.frontier.inputs import BadInput
from cascade_profiler.simulate.production import Simulation
from cascade_profiler.simulate.routers import Traffic
from cascade_profiler.simulate.runs import Failure, Run
from cascade_profiler.simulate.scores import drawn_scores
from cascade_profiler.simulate.several import file_with_pools, traces_of
from cascade_profiler.simulate.traces import load_trace

EXAMPLES = Path("examples")
EXAMPLE = EXAMPLES / "shared-pool.yaml"
FILE = load_cascades(EXAMPLE.read_text(), source=str(EXAMPLE))


def played(*traces: str, workers: int = 4, failures: tuple[Failure, ...] = ()) -> list[Run]:
    """The cascades of the example, the n-th with the n-th trace."""
    traffics = [
        Traffic(
            cascade,
            FILE.profile_of(cascade),
            load_trace(trace, seed=number),
            drawn_scores(["shapes-light", "shapes-heavy"], prompts=100, seed=number),
        )
        for number, (cascade, trace) in enumerate(zip(FILE.cascades, traces, strict=False))
    ]
    simulation = Simulation(
        traffics,
        accelerators={"cpu": workers},
        planner=Planner(PlannerSettings()),
        seed=0,
        pools=FILE.pools,
        failures=failures,
    )
    return simulation.run(lambda part: None)


def test_every_request_of_every_cascade_ends_and_is_its_own() -> None:
    runs = played("poisson:rate=5,seconds=15", "poisson:rate=10,seconds=15", "poisson:rate=2,seconds=30")
    counts = [
        len(load_trace(f"poisson:rate={r},seconds={s}", seed=n).times_s)
        for n, (r, s) in enumerate(((5, 15), (10, 15), (2, 30)))
    ]
    assert [len(run.outcomes.way) for run in runs] == counts
    assert [run.outcomes.objective_s for run in runs] == [2.0, 6.0, 2.0]
    for run in runs:
        assert run.outcomes.violations.mean() < 0.02
        assert all(change.at_s > -30 for change in run.changes)


def test_equal_seeds_give_equal_runs() -> None:
    once, again = (played("poisson:rate=5,seconds=10", "poisson:rate=8,seconds=10") for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.outcomes.latency_s, other.outcomes.latency_s)


def test_a_busy_neighbour_costs_quality_and_not_lateness() -> None:
    traces = ("poisson:rate=8,seconds=20", "poisson:rate=60,seconds=20")
    calm, crowded = played(traces[0], workers=2)[0], played(*traces, workers=2)[0]

    def heavy(run: Run) -> float:
        return float((run.outcomes.way % 2 == 0).mean())

    assert heavy(crowded) < heavy(calm)
    assert crowded.outcomes.violations.mean() < 0.03


def test_what_a_lost_worker_had_in_hand_is_made_again_for_each_cascade() -> None:
    traces = ("poisson:rate=10,seconds=20", "poisson:rate=10,seconds=20")
    for run in played(*traces, failures=(Failure(5.0, 5.0, 1),)):
        assert run.outcomes.violations.mean() < 0.05


def test_a_trace_is_for_one_cascade_or_for_all_others() -> None:
    told = traces_of(FILE, ["icons=bursts:rate=4", "poisson:rate=8"])
    assert told == {"portraits": "poisson:rate=8", "posters": "poisson:rate=8", "icons": "bursts:rate=4"}
    assert traces_of(FILE, ["poisson:rate=8", "icons=bursts:rate=4"]) == told
    with pytest.raises(BadInput, match="portraits has none"):
        traces_of(FILE, ["icons=bursts:rate=4"])


def test_files_without_worker_pools_are_simulated_one_cascade_at_a_time() -> None:
    assert file_with_pools(str(EXAMPLES / "shapes.yaml")) is None
    assert file_with_pools("hadis-726") is None


def test_the_profile_of_the_example_is_that_of_the_other_one() -> None:
    profiles = [
        [each for each in yaml.safe_load_all((EXAMPLES / name).read_text()) if each["kind"] == "CascadeProfile"]
        for name in ("shapes.yaml", "shared-pool.yaml")
    ]
    assert profiles[0] == profiles[1]


def test_the_command_prints_the_figures_of_each_cascade() -> None:
    command = ["simulate", "--profile", str(EXAMPLE), "--trace", "poisson:rate=4,seconds=5", "--seeds", "1"]
    told = CliRunner().invoke(build(), command)
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["cascade", "portraits", "posters", "icons"]
    data = json.loads(CliRunner().invoke(build(), [*command, "--json"]).stdout)["cascades"]
    assert [each["name"] for each in data] == ["portraits", "posters", "icons"]
    assert all(each["violation_percent"] == 0 for each in data)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "3"], "--workers: does not go with a file whose cascades use WorkerPools"),
        (["--switch-seconds", "1"], "--switch-seconds: does not go with"),
        (["--policy", "hadis"], "--policy: 'hadis' cannot plan for a WorkerPool"),
        (["--turns", "none"], "--turns: 'none' is none of"),
    ],
)
def test_options_that_the_file_decides_are_refused(arguments: list[str], says: str) -> None:
    command = ["simulate", "--profile", str(EXAMPLE), "--trace", "poisson:rate=1,seconds=2", *arguments]
    result = CliRunner().invoke(build(), command)
    assert result.exit_code != 0
    assert says in str(result.exception)


def test_several_traces_need_a_file_with_worker_pools() -> None:
    traces = ["--trace", "poisson:rate=1,seconds=2", "--trace", "poisson:rate=2,seconds=2"]
    result = CliRunner().invoke(build(), ["simulate", "--profile", str(EXAMPLES / "shapes.yaml"), *traces])
    assert result.exit_code != 0
    assert "--trace: is there twice" in str(result.exception)
