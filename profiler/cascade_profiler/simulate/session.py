"""The work of `cascade simulate`: it turns options into a request, shows progress, and prints the results."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from cascade_api.command import seconds
from cascade_api.workers import Hosting

from ..frontier.inputs import BadInput
from ..frontier.profiles import LoadedProfile, load_profile
from .campaign import CampaignRequest, PolicyResult, simulate
from .figures import FIGURES
from .page import page
from .runs import Failure
from .traces import load_trace
from .turns import Turns

_QUIET_S: Final = 2.0
_LINE_EVERY_S: Final = 10.0


@dataclass(frozen=True)
class SimulationOptions:
    """The options of the command line."""

    profile: str
    trace: str
    policy: str
    workers: str
    objective: str
    seeds: int
    switch_seconds: float | None
    hosting: str
    turns: str
    scorer: str
    fail: str
    json: bool
    report: str


def run(options: SimulationOptions) -> None:
    """Simulate and print; raises CommandFailed (BadInput) for errors that a user can correct."""
    request = _request(options)
    if options.report and not Path(options.report).parent.is_dir():
        raise BadInput("--report", f"no folder {Path(options.report).parent}: make it first")
    results = simulate(request, told=SimulationProgress(request))
    if options.report:
        try:
            Path(options.report).write_text(page(request, results), encoding="utf-8")
        except OSError as error:
            raise BadInput("--report", f"{options.report}: {error.strerror}") from None
    if options.json:
        typer.echo(json.dumps({"policies": [_data(result) for result in results]}, indent=2, allow_nan=False))
    else:
        typer.echo(_table(request, results))


def _request(options: SimulationOptions) -> CampaignRequest:
    loaded = load_profile(options.profile)
    if loaded.cascade is not None and any(each.pool is not None for each in loaded.cascade.spec.workers):
        raise BadInput(
            options.profile, "a WorkerPool cannot be simulated so far: name a pool of its own", field="spec.workers"
        )
    if options.scorer not in ("", "rules", "coin-flip"):
        raise BadInput("--scorer", f"{options.scorer!r} is none of rules, coin-flip")
    policies = tuple(name.strip() for name in options.policy.split(",") if name.strip())
    if not policies:
        raise BadInput("--policy", "names none")
    return CampaignRequest(
        profile=loaded,
        trace=options.trace,
        policies=policies,
        workers=_workers(options.workers, loaded),
        objective_s=_objective(options.objective, loaded),
        seeds=options.seeds,
        switch_s=options.switch_seconds,
        scorer=options.scorer or None,
        failures=_failures(options.fail),
        turns=_turns(options, loaded),
    )


def _turns(options: SimulationOptions, loaded: LoadedProfile) -> Turns | None:
    """How workers share their time; None where they host one variant each."""
    hosting = options.hosting or (loaded.cascade.spec.workers[0].hosting if loaded.cascade else Hosting.DEDICATED)
    if hosting not in list(Hosting):
        raise BadInput("--hosting", f"{options.hosting!r} is none of {', '.join(Hosting)}")
    if options.turns not in list(Turns):
        raise BadInput("--turns", f"{options.turns!r} is none of {', '.join(Turns)}")
    return Turns(options.turns) if hosting == Hosting.SHARED else None


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


class SimulationProgress:
    """Prints the progress of a long simulation on standard error: in place on a terminal, else as occasional lines."""

    def __init__(self, request: CampaignRequest) -> None:
        self._policies = request.policies
        self._seeds = request.seeds
        self._began = self._said = time.monotonic()

    def __call__(self, policy: str, seed: int, part: float) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if now - self._began < _QUIET_S or now - self._said < (0.2 if live else _LINE_EVERY_S):
            return
        self._said = now
        done = (self._policies.index(policy) + (seed + part) / self._seeds) / len(self._policies)
        text = f"simulate: {policy}, seed {seed + 1} of {self._seeds}: {done:4.0%}"
        sys.stderr.write(f"\r{text} " if live and done < 1 else f"{text}\n")
        sys.stderr.flush()


def _data(result: PolicyResult) -> dict[str, Any]:
    figures = {name: value if math.isfinite(value) else None for name, value in result.figures.items()}
    return {"name": result.name, "seeds": result.seeds, **figures}


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
        f"{'policy':<17}" + "".join(f"{_COLUMNS[name][0]:>17}" for name in FIGURES),
    ]
    for result in results:
        cells = "".join(
            f"{result.figures[name]:>10.{digits}f} ±{result.figures[name + '_sd']:>5.{min(digits, 2)}f}"
            for name, (_, digits) in _COLUMNS.items()
        )
        lines.append(f"{result.name:<17}{cells}")
    return "\n".join(lines)
