"""The work of `cascade simulate`: it turns options into a request, shows progress, and prints the results."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import typer

from cascade_api.command import seconds
from cascade_api.documents import CascadeFile
from cascade_api.quantities import METRIC_PATTERN
from cascade_api.settings import LONGEST_PROVISION_S
from cascade_api.workers import Hosting

from ..frontier.inputs import BadInput, size_parts
from ..frontier.profiles import LoadedProfile, load_profile
from . import courses
from .campaign import CampaignRequest, PolicyResult, simulate
from .figures import FIGURES
from .page import page
from .runs import Failure, NoNodes
from .several import SharedRequest, file_with_pools, simulate_several, traces_of
from .traces import load_trace
from .turns import Turns

_QUIET_S: Final = 2.0
_LINE_EVERY_S: Final = 10.0


@dataclass(frozen=True)
class SimulationOptions:
    """The options of the command line."""

    profile: str
    traces: tuple[str, ...]
    policy: str
    workers: str
    objective: str
    seeds: int
    switch_seconds: float | None
    hosting: str
    turns: str
    no_worse_than: str
    scorer: str
    fail: str
    sizes: str
    elastic: str
    no_nodes: str
    json: bool
    report: str


def run(options: SimulationOptions) -> None:
    """Simulate and print; raises CommandFailed (BadInput) for errors that a user can correct."""
    file = file_with_pools(options.profile)
    if file is not None:
        _run_several(options, file)
        return
    request = _request(options)
    if options.report and not Path(options.report).parent.is_dir():
        raise BadInput("--report", f"no folder {Path(options.report).parent}: make it first")
    results = simulate(request, told=SimulationProgress(request.policies, request.seeds))
    if options.report:
        try:
            Path(options.report).write_text(page(request, results), encoding="utf-8")
        except OSError as error:
            raise BadInput("--report", f"{options.report}: {error.strerror}") from None
    if options.json:
        typer.echo(json.dumps({"policies": [_data(result) for result in results]}, indent=2, allow_nan=False))
    else:
        typer.echo(_table(request, results))


def _run_several(options: SimulationOptions, file: CascadeFile) -> None:
    """Simulate the cascades of a file on its WorkerPools, and print the figures of each."""
    told: dict[str, str | float | None] = {
        "--workers": options.workers,
        "--objective": options.objective,
        "--hosting": options.hosting,
        "--no-worse-than": options.no_worse_than,
        "--scorer": options.scorer,
        "--report": options.report,
        "--switch-seconds": options.switch_seconds,
    }
    for option, value in told.items():
        if value not in ("", None):
            raise BadInput(option, "does not go with a file whose cascades use WorkerPools: the file says it")
    if options.policy != "hybrid":
        raise BadInput("--policy", f"{options.policy!r} cannot plan for a WorkerPool: leave it out")
    request = SharedRequest(
        source=options.profile,
        file=file,
        traces=traces_of(file, options.traces),
        seeds=options.seeds,
        turns=_turns_named(options.turns),
        failures=_failures(options.fail),
        no_nodes=_no_nodes(options.no_nodes),
    )
    request = replace(request, provision_s=_provision_s(options, request.accelerators))
    progress = SimulationProgress((", ".join(request.traces),), request.seeds)
    found = simulate_several(request, told=lambda seed, part: progress(progress.names[0], seed, part))
    if options.json:
        data = [{"name": name, "seeds": request.seeds, **_finite(figures)} for name, figures in found.items()]
        typer.echo(json.dumps({"cascades": data}, indent=2, allow_nan=False))
        return
    head = f"{request.source}: {len(found)} cascades together, {request.seeds} seeds; each figure with its standard "
    lines = [f"{head}deviation; switches and busy s are those of all workers", _head("cascade")]
    typer.echo("\n".join([*lines, *(_line(name, figures) for name, figures in found.items())]))


def _request(options: SimulationOptions) -> CampaignRequest:
    loaded = load_profile(options.profile)
    if len(options.traces) != 1:
        raise BadInput("--trace", "is there twice: several traces go with a file whose cascades use WorkerPools")
    if options.scorer not in ("", "rules", "coin-flip"):
        raise BadInput("--scorer", f"{options.scorer!r} is none of rules, coin-flip")
    policies = tuple(name.strip() for name in options.policy.split(",") if name.strip())
    if not policies:
        raise BadInput("--policy", "names none")
    workers = _workers(options.workers, loaded)
    return CampaignRequest(
        profile=loaded,
        trace=options.traces[0],
        policies=policies,
        workers=workers,
        objective_s=_objective(options.objective, loaded),
        seeds=options.seeds,
        switch_s=options.switch_seconds,
        scorer=options.scorer or None,
        no_worse_than=_floor(options),
        failures=_failures(options.fail),
        turns=_turns(options, loaded),
        sizes=size_parts(options.sizes),
        provision_s=_provision_s(options, workers),
        no_nodes=_no_nodes(options.no_nodes),
    )


def _floor(options: SimulationOptions) -> str | None:
    text = options.no_worse_than
    if text and not re.fullmatch(METRIC_PATTERN[1:-1], text):
        raise BadInput("--no-worse-than", f"{text!r} is not a value of the metric: write one such as 24.50")
    return text or None


def _turns(options: SimulationOptions, loaded: LoadedProfile) -> Turns | None:
    """How workers share their time; None where they host one variant each."""
    hosting = options.hosting or (loaded.cascade.spec.workers[0].hosting if loaded.cascade else Hosting.DEDICATED)
    if hosting not in list(Hosting):
        raise BadInput("--hosting", f"{options.hosting!r} is none of {', '.join(Hosting)}")
    turns = _turns_named(options.turns)
    return turns if hosting == Hosting.SHARED else None


def _turns_named(name: str) -> Turns:
    if name not in list(Turns):
        raise BadInput("--turns", f"{name!r} is none of {', '.join(Turns)}")
    return Turns(name)


def _workers(text: str, loaded: LoadedProfile) -> Mapping[str, int]:
    if not text:
        if loaded.cascade is None:
            raise BadInput("--workers", "is needed: the profile's file holds no DiffusionCascade")
        return {name: n for name, n in loaded.cascade.spec.accelerators.items() if n}
    classes = list(dict.fromkeys(row.accelerator_class for row in loaded.profile.spec.execution))
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if not equals:
            if len(classes) > 1 or counts:
                raise BadInput("--workers", f"name a class for each number, as in {classes[0]}=8")
            name, number = classes[0], part.strip()
        if not re.fullmatch("[0-9]{1,6}", number) or int(number) < 1:
            raise BadInput("--workers", f"{part.strip()!r} is not a number of accelerators from 1 to 999999")
        counts[name] = int(number)
    return counts


def _objective(text: str, loaded: LoadedProfile) -> float:
    if text:
        return seconds(text, option="--objective")
    if loaded.cascade is None:
        raise BadInput("--objective", "is needed: the profile's file holds no DiffusionCascade")
    return loaded.cascade.spec.objective.latency_s


def _failures(text: str) -> tuple[Failure, ...]:
    found = []
    for part in filter(None, text.split(",")):
        try:
            at, length, count = part.split(":")
            failure = Failure(float(at), float(length), int(count))
        except ValueError:
            raise BadInput("--fail", f"{part!r} is not AT:FOR:COUNT, as in 100:45:2") from None
        if not (math.isfinite(failure.at_s) and failure.at_s >= 0 and failure.for_s > 0 and failure.workers > 0):
            raise BadInput("--fail", f"{part!r}: AT from zero on, FOR and COUNT above zero")
        found.append(failure)
    return tuple(found)


def _provision_s(options: SimulationOptions, workers: Mapping[str, int]) -> dict[str, int]:
    """Seconds that a Node takes to come, by class."""
    found: dict[str, int] = {}
    for part in filter(None, options.elastic.split(",")):
        name, equals, number = part.strip().partition("=")
        if not equals:
            if len(workers) > 1:
                raise BadInput("--elastic", f"name a class for each number, as in {min(workers)}=180")
            name, number = next(iter(workers)), part.strip()
        if name not in workers:
            raise BadInput("--elastic", f"there are no workers of class {name!r}, but of {', '.join(sorted(workers))}")
        if not re.fullmatch("[0-9]{1,4}", number) or not 1 <= int(number) <= LONGEST_PROVISION_S:
            raise BadInput("--elastic", f"{part.strip()!r} is not a number of seconds from 1 to {LONGEST_PROVISION_S}")
        found[name] = int(number)
    if options.no_nodes and not found:
        raise BadInput("--no-nodes", "needs --elastic: without it, all accelerators exist")
    return found


def _no_nodes(text: str) -> tuple[NoNodes, ...]:
    found = []
    for part in filter(None, text.split(",")):
        try:
            at, length = part.split(":")
            none = NoNodes(float(at), float(length))
        except ValueError:
            raise BadInput("--no-nodes", f"{part!r} is not AT:FOR, as in 100:600") from None
        if not (math.isfinite(none.at_s) and none.for_s > 0 and math.isfinite(none.for_s)):
            raise BadInput("--no-nodes", f"{part!r}: AT is a second, FOR above zero")
        found.append(none)
    return tuple(found)


class SimulationProgress:
    """Prints the progress of a long simulation on standard error: in place on a terminal, else as occasional lines."""

    def __init__(self, names: Sequence[str], seeds: int) -> None:
        self.names = names
        self._seeds = seeds
        self._began = self._said = time.monotonic()

    def __call__(self, name: str, seed: int, part: float) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if now - self._began < _QUIET_S or now - self._said < (0.2 if live else _LINE_EVERY_S):
            return
        self._said = now
        done = (self.names.index(name) + (seed + part) / self._seeds) / len(self.names)
        text = f"simulate: {name}, seed {seed + 1} of {self._seeds}: {done:4.0%}"
        sys.stderr.write(f"\r{text} " if live and done < 1 else f"{text}\n")
        sys.stderr.flush()


def _data(result: PolicyResult) -> dict[str, Any]:
    return {"name": result.name, "seeds": result.seeds, **_finite(result.figures)}


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


_COLUMNS: Final = {
    "quality_time_mean": ("by time", 3),
    "quality_request_mean": ("by request", 3),
    "quality_planned_mean": ("planned", 3),
    "violation_percent": ("violations %", 3),
    "degraded_percent": ("degraded %", 2),
    "dropped_percent": ("dropped %", 3),
    "p50_s": ("p50 s", 2),
    "p99_s": ("p99 s", 2),
    "switches": ("switches", 0),
    "gpu_seconds": ("busy s", 0),
}


def _table(request: CampaignRequest, results: Sequence[PolicyResult]) -> str:
    trace = load_trace(request.trace)
    spec = request.profile.profile.spec
    better = "less" if spec.direction == "min" else "more"
    lines = [
        f"{request.trace}: {len(trace.times_s)} requests in {trace.span_s:.0f} s ({trace.mean_rate:.1f}/s), "
        f"objective {request.objective_s:g} s, {request.seeds} seeds; quality is {spec.objective_metric}, "
        f"{better} is better; each figure with its standard deviation",
        _head("policy"),
    ]
    lines += [_line(result.name, result.figures) for result in results]
    runs = [result.first for result in results]
    return "\n".join([*lines, "", *courses.lines(runs, request.profile.charges, metric=spec.objective_metric)])


def _head(first: str) -> str:
    return f"{first:<17}" + "".join(f"{_COLUMNS[name][0]:>17}" for name in FIGURES)


def _line(name: str, figures: Mapping[str, float]) -> str:
    cells = (
        f"{figures[figure]:>10.{digits}f} ±{figures[figure + '_sd']:>5.{min(digits, 2)}f}"
        for figure, (_, digits) in _COLUMNS.items()
    )
    return f"{name:<17}{''.join(cells)}"
