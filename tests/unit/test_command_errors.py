"""Errors of commands about bad input: file, field and fix in one line, exit code 2, never a traceback."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cascade_api.cascade import PolicyName
from cascade_api.command import build, main

SHAPES = Path(__file__).parents[2] / "examples" / "shapes.yaml"
Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the `cascade` command in this process: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cascade", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def changed(folder: Path, change: Change) -> str:
    """The example's manifest with a change of its two documents."""
    cascade, profile = yaml.safe_load_all(SHAPES.read_text())
    change(cascade, profile)
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump_all([cascade, profile], sort_keys=False))
    return str(path)


def gpu_with_a_budget(cascade: dict[str, Any], profile: dict[str, Any]) -> None:
    cascade["spec"]["workers"] = [{"name": "gpus", "class": "gpu", "max": 4, "budgetPerHour": "10.00"}]
    for row in [*profile["spec"]["execution"], *profile["spec"]["discriminator"], *profile["spec"]["startup"]]:
        row["class"] = "gpu"


REFUSED: dict[str, tuple[Change, str]] = {
    "a batch faster than a smaller one": (
        lambda c, p: p["spec"]["execution"][1].update(p50Micros=10, p95Micros=20),
        "spec.execution.1.p50Micros: 10 µs at batch 2 is less than a smaller batch takes",
    ),
    "a negative time": (
        lambda c, p: p["spec"]["execution"][0].update(p50Micros=-5),
        "spec.execution.0.p50Micros: input should be greater than or equal to 1",
    ),
    "a time with a unit": (
        lambda c, p: p["spec"]["execution"][0].update(p50Micros="100ms"),
        "spec.execution.0.p50Micros: input should be a valid integer",
    ),
    "quality of an unknown variant": (
        lambda c, p: p["spec"]["quality"][3].update(chain=["light", "other"]),
        "spec.quality.3.chain.1: 'other' is not in spec.execution: unknown variant",
    ),
    "an unmeasured variant": (
        lambda c, p: c["spec"]["variants"][1].update(name="other"),
        "spec.variants.1.name: 'other' at 32x32 on class 'cpu' is not in the profile's spec.execution",
    ),
    "a missing measurement": (
        lambda c, p: p["spec"]["execution"].pop(0),
        "lacks a row for batch 1",
    ),
    "a share beyond all": (
        lambda c, p: p["spec"]["quality"][3].update(directPercent=105),
        "spec.quality.3.directPercent",
    ),
    "an objective without a unit": (
        lambda c, p: c["spec"]["objective"].update(latency="2"),
        "spec.objective.latency: '2' is not a duration",
    ),
    "an objective that admits nothing": (
        lambda c, p: c["spec"]["objective"].update(latency="1ms"),
        "no variant makes one image within spec.objective.latency",
    ),
    "no accelerators": (
        lambda c, p: c["spec"]["workers"][0].update(min=0, max=0),
        "spec.workers: admits nothing",
    ),
    "an unknown pool": (
        lambda c, p: c["spec"]["variants"][0].update(pools=["gpus"]),
        "spec.variants.0.pools.0: 'gpus' is not in spec.workers: add it there, or name one of slots",
    ),
    "a budget for a class without a price": (
        gpu_with_a_budget,
        "class gpu has no price, so its budgetPerHour allows no workers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_manifest_that_cannot_be_planned_is_refused_by_file_and_field(
    case: str, tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    change, said = REFUSED[case]
    file = changed(tmp_path, change)
    code, out, err = cascade("plan", "-f", file, "--demand", "10")
    assert code == 2
    assert f"cascade: {file}" in err
    assert said in err
    assert not out


@pytest.mark.parametrize("demand", ["nan", "inf", "-1", "many", "1e9"])
def test_a_demand_that_is_no_rate_is_refused(demand: str, cascade: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cascade("plan", "-f", str(SHAPES), "--demand", demand)
    assert code == 2
    assert "--demand" in err
    assert not out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", ""), "--policy: names none"),
        (("--policy", "best"), "--policy: 'best' is unknown"),
        (("--report", "/nowhere/report.html"), "--report: no folder"),
        (("--objective", "1ms"), "mind the unit"),
        (("--objective", "0s"), "--objective: must be above zero"),
        (("--workers", "0"), "--workers: '0' is not a number of accelerators"),
        (("--workers", "²"), "--workers: '²' is not a number of accelerators"),
        (("--switch-seconds", "nan"), "--switch-seconds"),
        (("--switch-seconds", "1e300"), "--switch-seconds"),
        (("--objective", "9" * 400), "--objective"),
        (("--fail", "1:2"), "--fail: '1:2' is not AT:FOR:COUNT"),
    ],
)
def test_options_of_a_simulation_are_refused_before_it_runs(
    options: tuple[str, str], said: str, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = cascade("simulate", "--profile", str(SHAPES), "--trace", "poisson:rate=5,seconds=5", *options)
    assert code == 2
    assert said in err
    assert not out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", "inf"), "'--rate'"),
        (("--rate", "nan"), "'--rate'"),
        (("--rate", "1e300"), "'--rate'"),
        (("--duration", "9" * 400), "--duration"),
        (("--duration", "9" * 400 + "h"), "--duration"),
        (("--deadline", "1000h"), "--deadline: 1000h is more than 720h"),
        (("--seed", "-1"), "'--seed'"),
        (("--grpc", "foo"), "--grpc: 'foo' is not HOST:PORT"),
        (("--cascade", "\udcff"), "--cascade: is not valid UTF-8"),
    ],
)
def test_options_of_a_load_are_refused_before_it_begins(
    options: tuple[str, str], said: str, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = cascade("load", "--rate", "5", "--duration", "5s", *options)
    assert code == 2
    assert said in err
    assert not out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("\udcff\udcfe",), "prompt: is not valid UTF-8"),
        (("a circle", "--cascade", "\udcff"), "--cascade: is not valid UTF-8"),
        (("a circle", "--api-key", "a\nb"), "--api-key: holds characters that no key has"),
        (("a circle", "--deadline", "25h"), "--deadline: 25h is more than 24h"),
        (("a circle", "--grpc", "foo"), "--grpc: 'foo' is not HOST:PORT"),
        (("a circle", "--grpc", "127.0.0.1:²"), "--grpc: '127.0.0.1:²' is not HOST:PORT"),
        (("a circle", "--grpc", "127.0.0.1:99999"), "--grpc: '127.0.0.1:99999' is not HOST:PORT"),
        (("a circle", "--ca", str(SHAPES)), f"--ca: {SHAPES} holds no PEM certificate"),
        (("a circle", "--ca", "/"), "--ca: cannot read /: Is a directory"),
        (("a circle", "--ca", str(SHAPES), "--key", str(SHAPES)), "--certificate and --key: give both or neither"),
    ],
)
def test_an_image_is_not_asked_for_with_what_cannot_be_sent(
    arguments: tuple[str, ...], said: str, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = cascade("generate", "--grpc", "127.0.0.1:1", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"cascade: {said}")
    assert len(err.splitlines()) == 1


def test_a_folder_is_no_profile(tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cascade("frontier", str(tmp_path))
    assert (code, out, err) == (2, "", f"cascade: {tmp_path}: cannot be read: Is a directory\n")


@pytest.mark.parametrize("step", ["fetch", "export"])
def test_built_in_models_are_nothing_to_prepare(step: str, cascade: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cascade("model-repo", step, "-f", str(SHAPES))
    assert (code, out, err) == (0, f"{SHAPES}: nothing to {step}: all of its models are built in\n", "")


def test_a_profile_with_a_hole_is_neither_drawn_nor_simulated(
    tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    file = changed(tmp_path, lambda c, p: p["spec"]["quality"].pop(17))
    for arguments in (("frontier", file), ("simulate", "--profile", file, "--trace", "poisson:rate=5,seconds=5")):
        code, _, err = cascade(*arguments)
        assert code == 2
        assert "changed.yaml: spec.quality of chain shapes-light → shapes-heavy lacks directPercent" in err


@pytest.mark.parametrize("mode", ["paused", "advisory"])
@pytest.mark.parametrize("command", [("plan", "--demand", "10"), ("up",)])
def test_a_mode_that_makes_no_plans_is_named(
    command: tuple[str, ...], mode: str, tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    file = changed(tmp_path, lambda c, p: c["spec"]["policy"].update(mode=mode))
    code, _, err = cascade(*command, "-f", file)
    assert code == 2
    assert "default/shapes: " in err
    assert f"spec.policy.mode is {mode}" in err


@pytest.mark.parametrize("command", [("plan", "--demand", "10"), ("up",)])
def test_a_setting_that_is_none_is_refused_by_its_variable(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cascade: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("CASCADE_OPERATOR_TICK_MIN_S", "soon")
    code, out, err = cascade(*command, "-f", str(SHAPES))
    assert code == 2
    assert err.startswith("cascade: setting CASCADE_OPERATOR_TICK_MIN_S: ")
    assert not out
    assert not any(tmp_path.iterdir())


def test_one_address_for_both_protocols_is_refused_before_anything_starts(
    tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    here = ("--grpc", "127.0.0.1:8001", "--http", "127.0.0.1:8001", "--state-dir", str(tmp_path / "state"))
    code, out, err = cascade("up", "-f", str(SHAPES), *here)
    assert code == 2
    assert "--grpc, --http: both are 127.0.0.1:8001" in err
    assert not out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("status",), "nothing runs from {}: start it with"),
        (("down",), "nothing runs from {}"),
        (("doctor",), "port: "),
        (("generate", "a small red circle"), "no cascade runs from {}"),
        (("up", "-f", str(SHAPES)), "--state-dir: cannot write {}"),
    ],
)
def test_a_state_directory_that_is_a_file_holds_no_run(
    command: tuple[str, ...], said: str, tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    file = tmp_path / "file"
    file.touch()
    _, out, err = cascade(*command, "--state-dir", str(file))
    assert said.format(file) in out + err


@pytest.mark.parametrize("name", [name.value for name in PolicyName])
def test_every_policy_explains_its_plan(
    name: str, tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    def decided_by(spec: dict[str, Any]) -> None:
        spec["policy"]["name"] = name
        # The published systems need a worker for each variant.
        spec["workers"][0]["hosting"] = "dedicated"

    file = changed(tmp_path, lambda c, p: decided_by(c["spec"]))
    code, out, _ = cascade("plan", "-f", file, "--demand", "30", "--json")
    assert code == 0
    (answer,) = json.loads(out)
    assert answer["plan"]["rows"]
    assert {"cascade", "asked", "plan", "status", "figures", "binding"} == set(answer)


def test_a_plan_says_what_binds_it(cascade: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cascade("plan", "-f", str(SHAPES), "--demand", "40")
    assert code == 0
    assert "bound by: all 2 cpu accelerators that spec.workers allows are in use" in out
    assert "shapes-heavy must serve" in out


def test_shares_in_words_are_of_all_prompts_and_add_up(cascade: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = cascade("plan", "-f", str(SHAPES), "--demand", "40")
    rows = re.findall(r"(\d+)% of all prompts by .*: (\d+)% go direct, (\d+)% escalate, (\d+)% stay light", out)
    assert len(rows) > 1
    figures = [[int(figure) for figure in row] for row in rows]
    assert sum(share for share, *_ in figures) == pytest.approx(100, abs=1)
    for share, *parts in figures:
        assert sum(parts) == pytest.approx(share, abs=2)
    total = re.search(r"direct (\d+)%, escalated (\d+)%", out)
    assert total is not None
    assert sum(escalated for _, _, escalated, _ in figures) == pytest.approx(int(total[2]), abs=2)


def test_cascades_on_a_full_pool_are_told_that_others_have_the_rest_of_its_time(
    cascade: Callable[..., tuple[int, str, str]],
) -> None:
    _, out, _ = cascade("plan", "-f", str(SHAPES.with_name("shared-pool.yaml")), "--demand", "60")
    assert "best quality at this demand" not in out
    assert out.count("bound by: other cascades of the WorkerPool have the rest of its workers' time") == 3
    assert out.count("bound by: all 4 cpu accelerators that spec.workers allows are in use") == 3


def test_a_plan_that_sheds_load_answers_the_rest_in_time(cascade: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = cascade("plan", "-f", str(SHAPES), "--demand", "2000")
    assert "AllocationOptimal=False (LoadShed)" in out
    found = re.search(r"expects p99 ([0-9.]+) s", out)
    assert found is not None
    assert float(found[1]) <= 2


def test_a_plan_for_more_than_was_asked_says_so_and_why(cascade: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = cascade("plan", "-f", str(SHAPES), "--demand", "0.1")
    assert "planned for 0.5 requests/s, not for 0.1: a plan is for at least one request in each" in out
    assert "spec.objective.latency (2 s)" in out
    _, out, _ = cascade("plan", "-f", str(SHAPES), "--demand", "5")
    assert "planned for" not in out


def test_a_plan_that_degrades_answers_keeps_the_objective_and_says_how_many(
    tmp_path: Path, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    def tight(spec: dict[str, Any]) -> None:
        spec["objective"]["latency"] = "300ms"
        spec["policy"]["headroomPercent"] = 0

    file = changed(tmp_path, lambda c, p: tight(c["spec"]))
    code, out, _ = cascade("plan", "-f", file, "--demand", "30")
    assert code == 0
    assert re.search(r"expects p99 0\.30 s, \d+% degraded, quality", out)
    assert "AllocationOptimal=False (Degrading)" in out
    code, out, _ = cascade("plan", "-f", str(SHAPES), "--demand", "30")
    assert "degraded," not in out.splitlines()[0]
    assert "AllocationOptimal=True (Optimal)" in out


def test_figures_of_a_simulation_are_those_of_the_contract(cascade: Callable[..., tuple[int, str, str]]) -> None:
    arguments = ("--trace", "poisson:rate=5,seconds=5", "--seeds", "2", "--policy", "hadis,hybrid", "--json")
    code, out, _ = cascade("simulate", "--profile", str(SHAPES), *arguments)
    assert code == 0
    (policies,) = json.loads(out).values()
    figures = [
        "quality_time_mean",
        "quality_request_mean",
        "quality_planned_mean",
        "violation_percent",
        "degraded_percent",
        "dropped_percent",
        "p50_s",
        "p99_s",
        "switches",
        "gpu_seconds",
    ]
    expected = {"name", "seeds", *figures, *(f"{name}_sd" for name in figures)}
    assert [policy["name"] for policy in policies] == ["hadis", "hybrid"]
    assert all(set(policy) == expected for policy in policies)


def test_one_thing_has_one_option_in_every_command() -> None:
    service, redis = set(), set()
    for name, command in every_command(typer.main.get_command(build()), "cascade"):
        for option in command.params:
            if option.metavar == "HOST:PORT":
                service |= set(option.opts)
            if option.envvar == "REDIS_URL":
                redis |= set(option.opts)
            assert "--address" not in option.opts, f"{name}: the service is --grpc"
    assert service == {"--grpc", "--http"}
    assert redis == {"--redis-url"}


def every_command(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command and all below it, by name."""
    yield name, command
    for below, child in getattr(command, "commands", {}).items():
        yield from every_command(child, f"{name} {below}")


def test_a_command_whose_libraries_are_elsewhere_names_them(
    monkeypatch: pytest.MonkeyPatch, cascade: Callable[..., tuple[int, str, str]]
) -> None:
    for module in [name for name in sys.modules if name.startswith("cascade_operator.local")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psutil", None)
    code, _, said = cascade("status", "--state-dir", "/nothing")
    assert code == 2
    assert said.startswith("cascade: this command needs psutil, which is not installed here: ")
