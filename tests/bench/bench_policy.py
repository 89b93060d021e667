"""The product's policy against HADIS in the same simulator and on the same traces, with the fluid limit beside.

Ratios are to the baselines of the same run: violations of HADIS per violation of ours where both pay the same switch
cost, and the quality gained over it. Sections: `traces` (published ones), `flash` (twenty seeds), `failure`,
`generated`, traces that no setting was chosen on, `shared`, whose workers host all variants, with short work first, and
`even`, the same with the device shared evenly, and `memory`, whose workers have memory for two of the four models.
`floor` holds a quality floor; its named baseline is the fluid least work for that floor (`limits.least_work_s`).
Beside these stands what dedicated workers reach in the same run.
All of it takes some ten minutes of one core. `pool` is another question, with a module of its own (`bench_pool`).

    make bench-policy [ARGS="--section flash --seeds 3 --json FILE"]     (needs CASCADE_REFERENCE_DATA)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench import bench_pool
from cascade_profiler.frontier.profiles import LoadedProfile, load_profile
from cascade_profiler.simulate.campaign import CampaignRequest, simulate
from cascade_profiler.simulate.limits import fluid_limit, least_work_s
from cascade_profiler.simulate.runs import Failure
from cascade_profiler.simulate.traces import is_drawn, load_trace
from cascade_profiler.simulate.turns import Turns

POOL = "pool"
CLASS, WORKERS, OBJECTIVE_S = "nvidia-l40s", 16, 6.0
IN_PLACE_S, POD_START_S = 0.12, 4.5
FLASH = "flash:rate=16,factor=4,at=100,length=6,seconds=200"
STEADY = "poisson:rate=30,seconds=200"
LOST = (Failure(80.0, 45.0, 2),)


@dataclass(frozen=True)
class Case:
    """A trace at a switch cost, with the most that figures of ours may be; ``free``: HADIS switches for nothing.

    ``targets`` are percentages for `violation_percent` and `gap`, counts for `switches`, else values of the metric.
    """

    section: str
    name: str
    trace: str
    switch_s: float
    seeds: int
    free: bool = False
    failures: tuple[Failure, ...] = ()
    targets: dict[str, float] = field(default_factory=dict)
    workers: int = WORKERS
    turns: Turns | None = None
    """How workers that host all variants share their time; None: they host one each."""
    hosts: int = 0
    """Models that a worker's memory holds; 0: all."""
    floor: str = ""
    """The quality to hold (`noWorseThan`); empty: the best."""


def _targets(
    time_mean: float,
    late: float,
    *,
    request_mean: float | None = None,
    switches: float | None = None,
    gap: float = 0.0,
    p50_s: float | None = None,
) -> dict[str, float]:
    found = {"quality_time_mean": time_mean, "violation_percent": late}
    if request_mean is not None:
        found["quality_request_mean"] = request_mean
    if switches is not None:
        found["switches"] = switches
    if gap:
        found["gap"] = gap
    if p50_s is not None:
        found["p50_s"] = p50_s
    return found


MODEL_MIB = 1000
AGAINST_HADIS = {"violations_of_hadis": 0.2, "gain": 0.8}
FLASH_TWICE = FLASH.replace("rate=16", "rate=32")


def _shared(section: str, turns: Turns, targets: Sequence[dict[str, float]]) -> tuple[Case, ...]:
    """The cases of workers that host all variants, each with its targets."""
    cases = (
        Case(section, "1to64", "hadis_1to64", IN_PLACE_S, 5),
        Case(section, "1to40", "hadis_1to40", IN_PLACE_S, 5),
        Case(section, "1to20", "hadis_1to20", IN_PLACE_S, 5),
        Case(section, "hadis_1to32, 8", "hadis_1to32", IN_PLACE_S, 5, workers=8),
        Case(section, "hadis_1to20, 4", "hadis_1to20", IN_PLACE_S, 5, workers=4),
        Case(section, "diffserve_2to10, 3", "diffserve_2to10", IN_PLACE_S, 5, workers=3),
        Case(section, "diffserve_1to8, 2", "diffserve_1to8", IN_PLACE_S, 5, workers=2),
        Case(section, "flash crowd on 16/s", FLASH, IN_PLACE_S, 20),
        Case(section, "flash crowd on 32/s", FLASH_TWICE, IN_PLACE_S, 20),
        Case(section, "2 of 16 lost", STEADY, IN_PLACE_S, 5, failures=LOST),
    )
    return tuple(
        replace(case, name=f"{case.name}, {turns}", turns=turns, targets=goals)
        for case, goals in zip(cases, targets, strict=True)
    )


CASES = (
    Case(
        "traces",
        "1to64, in place",
        "hadis_1to64",
        IN_PLACE_S,
        5,
        free=True,
        targets=_targets(22.38, 0.02, request_mean=23.08, switches=80, gap=1.0),
    ),
    Case("traces", "1to40, in place", "hadis_1to40", IN_PLACE_S, 5, free=True, targets=_targets(21.43, 0.02, gap=1.0)),
    Case("traces", "1to20, in place", "hadis_1to20", IN_PLACE_S, 5, free=True, targets=_targets(20.30, 0.02, gap=1.2)),
    Case(
        "traces", "1to64, pod starts", "hadis_1to64", POD_START_S, 5, targets=_targets(22.63, 0.10, request_mean=23.24)
    ),
    Case("flash", "flash crowd, in place", FLASH, IN_PLACE_S, 20, targets=AGAINST_HADIS),
    Case("flash", "flash crowd, pod starts", FLASH, POD_START_S, 20, targets=AGAINST_HADIS),
    Case("failure", "2 of 16 lost, in place", STEADY, IN_PLACE_S, 5, failures=LOST, targets=AGAINST_HADIS),
    Case("failure", "2 of 16 lost, pod starts", STEADY, POD_START_S, 5, failures=LOST, targets=AGAINST_HADIS),
    Case("generated", "poisson 16/s", "poisson:rate=16,seconds=200", IN_PLACE_S, 3),
    Case("generated", "poisson 30/s", STEADY, IN_PLACE_S, 3),
    Case("generated", "diurnal 4-60/s", "diurnal:low=4,high=60,period=200,seconds=200", IN_PLACE_S, 3),
    Case("generated", "diurnal 2-40/s", "diurnal:low=2,high=40,period=350,seconds=350", IN_PLACE_S, 3),
    Case("generated", "bursts x4 of 6 s", "bursts:rate=16,seconds=200", IN_PLACE_S, 3),
    Case("generated", "on-off 10 s, 30/s", "on-off:rate=30,seconds=200", IN_PLACE_S, 3),
    *_shared(
        "shared",
        Turns.SHORT_FIRST,
        (
            _targets(22.36, 0.02, request_mean=23.08, switches=0, p50_s=0.25),
            _targets(21.42, 0.02, switches=0),
            _targets(20.26, 0.02, switches=0),
            _targets(22.43, 0.02, switches=0),
            _targets(22.93, 0.02, switches=0),
            _targets(22.50, 0.02, switches=0),
            _targets(22.70, 0.02, switches=0),
            _targets(21.07, 0.15, switches=0),
            _targets(22.63, 0.30, switches=0),
            {"violation_percent": 0.0, "beyond_dedicated": 0.0},
        ),
    ),
    *_shared("even", Turns.EVEN, [{}] * 10),
    *(
        Case(
            "memory",
            f"{trace}, {workers}, loads of {load_s:g} s",
            trace,
            load_s,
            3,
            workers=workers,
            turns=Turns.SHORT_FIRST,
            hosts=2,
            targets={"violation_percent": 0.05, "beyond_dedicated": 0.0},
        )
        for trace, workers in (("hadis_1to64", 16), ("hadis_1to20", 4))
        for load_s in (IN_PLACE_S, 2.0)
    ),
    *(
        Case(
            "floor",
            f"1to64, no worse than {floor}, {hosting}",
            "hadis_1to64",
            IN_PLACE_S,
            5,
            turns=turns,
            floor=floor,
            targets={"off_floor": 0.05, "violation_percent": 0.05, "work": 1.1},
        )
        for floor in ("24.5", "23.5")
        for hosting, turns in (("shared", Turns.SHORT_FIRST), ("dedicated", None))
    ),
)


def measure(case: Case, profile: LoadedProfile, *, seeds: int) -> dict[str, float]:
    """Figures of both policies, the limit, and how they compare."""
    request = CampaignRequest(
        profile,
        case.trace,
        ("hybrid",),
        {CLASS: case.workers},
        OBJECTIVE_S,
        seeds,
        case.switch_s,
        failures=case.failures,
        turns=case.turns,
        no_worse_than=case.floor or None,
    )
    if case.hosts:
        request = replace(request, profile=_with_memory(profile), memory_mib=case.hosts * MODEL_MIB)
    (ours,) = simulate(request, told=_told)
    beside = _beside_floor(case, profile, ours.figures) if case.floor else {}
    if case.turns is not None:
        (dedicated,) = simulate(replace(request, profile=profile, memory_mib=0, turns=None), told=_told)
        beside |= {f"dedicated_{name}": value for name, value in dedicated.figures.items()}
        beside["ours_beyond_dedicated"] = ours.figures["quality_time_mean"] - dedicated.figures["quality_time_mean"]
    baseline = replace(request, profile=profile, policies=("hadis",), switch_s=None if case.free else case.switch_s)
    (theirs,) = simulate(baseline, told=_told)
    limits = [
        fluid_limit(
            profile.profile.spec, load_trace(case.trace, seed=seed), accelerator_class=CLASS, workers=case.workers
        )
        for seed in range(seeds if is_drawn(case.trace) else 1)
    ]
    time_limit, request_limit = (float(value) for value in np.mean(limits, axis=0))
    late, their_late = ours.figures["violation_percent"], theirs.figures["violation_percent"]
    return {
        **{f"ours_{name}": value for name, value in ours.figures.items()},
        **{f"hadis_{name}": value for name, value in theirs.figures.items()},
        **beside,
        "limit_time": time_limit,
        "limit_request": request_limit,
        "ours_gap": 100 * (ours.figures["quality_time_mean"] / time_limit - 1),
        "ours_violations_of_hadis": late / their_late if their_late else float(late > 0),
        "gain": theirs.figures["quality_time_mean"] - ours.figures["quality_time_mean"],
    }


def _beside_floor(case: Case, profile: LoadedProfile, figures: dict[str, float]) -> dict[str, float]:
    """How far the realised quality is from the floor, and the work as a multiple of the fluid least work for it."""
    least_s = least_work_s(profile.profile.spec, accelerator_class=CLASS, no_worse_than=float(case.floor))
    return {
        "ours_off_floor": abs(figures["quality_request_mean"] - float(case.floor)),
        "ours_work": figures["gpu_seconds"] / (least_s * len(load_trace(case.trace, seed=0).times_s)),
    }


def _with_memory(profile: LoadedProfile) -> LoadedProfile:
    """The profile with as much memory for each of its models."""
    rows = [row.model_copy(update={"memory_mi_b": MODEL_MIB}) for row in profile.profile.spec.execution]
    spec = profile.profile.spec.model_copy(update={"execution": rows})
    return replace(profile, profile=profile.profile.model_copy(update={"spec": spec}))


def missed(case: Case, found: dict[str, float]) -> list[str]:
    """Targets that were not reached, in words."""
    words = []
    for name, target in case.targets.items():
        value = found["gain"] if name == "gain" else found[f"ours_{name}"]
        if (value < target) if name == "gain" else (value > target):
            words.append(f"{name} {value:.3f}, target {target:g}")
    return words


def line(case: Case, found: dict[str, float]) -> str:
    """One row of the table."""

    def mean(name: str, digits: int) -> str:
        return f"{found[name]:.{digits}f} ±{found[f'{name}_sd']:.{digits}f}"

    late, theirs = found["ours_violation_percent"], found["hadis_violation_percent"]
    ratio = f"{theirs / late:.0f}x" if late > 0 else "none"
    misses = "; ".join(missed(case, found))
    verdict = f"MISSED {misses}" if misses else "reached" if case.targets else ""
    if case.floor:
        verdict += f"; {found['ours_gpu_seconds']:.0f} accelerator-seconds, {found['ours_work']:.3f} of the least"
    if case.turns is not None:
        verdict += f"; p50 {found['ours_p50_s']:.2f} s; dedicated {found['dedicated_quality_time_mean']:.3f} /"
        verdict += f" {found['dedicated_quality_request_mean']:.3f}, late {found['dedicated_violation_percent']:.3f} %"
    return (
        f"{case.name:<35}{mean('ours_quality_time_mean', 3):>15}{mean('ours_quality_request_mean', 3):>15}"
        f"{mean('ours_violation_percent', 3):>15}{found['ours_switches']:6.0f} |"
        f"{found['limit_time']:8.3f}{found['limit_request']:8.3f}{found['ours_gap']:6.2f} |"
        f"{found['hadis_quality_time_mean']:7.2f}{found['hadis_quality_request_mean']:7.2f}"
        f"{mean('hadis_violation_percent', 2):>14}{found['hadis_switches']:6.0f} |{ratio:>7}{found['gain']:6.2f} |"
        f" {verdict}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = sorted({case.section for case in CASES} | {POOL})
    parser.add_argument("--section", choices=sections, help=f"only this one; {POOL} runs only if it is named")
    parser.add_argument("--seeds", type=int, help="for every case, instead of its own number")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.section == POOL:
        bench_pool.measure()
        return 0
    profile = load_profile("hadis-726")
    began = time.process_time()
    print(f"{'':<35}{'hybrid':>51} |{'fluid limit':>22} |{'hadis':>34} |{'hadis / hybrid':>13} |")
    columns = f"{'time':>15}{'request':>15}{'late %':>15}{'sw':>6} |{'time':>8}{'request':>8}{'gap %':>6} |"
    print(f"{'case':<35}{columns}{'time':>7}{'request':>7}{'late %':>14}{'sw':>6} |{'late':>7}{'gain':>6} | targets")
    results: dict[str, dict[str, float]] = {}
    for case in CASES:
        if arguments.only in case.name and arguments.section in (None, case.section):
            results[case.name] = measure(case, profile, seeds=arguments.seeds or case.seeds)
            print(line(case, results[case.name]), flush=True)
    print(f"{time.process_time() - began:.0f} CPU seconds")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0


_said = [time.monotonic()]


def _told(policy: str, seed: int, part: float) -> None:
    if time.monotonic() - _said[0] > 10:
        _said[0] = time.monotonic()
        sys.stderr.write(f"  {policy}, seed {seed + 1}: {part:.0%}\n")


if __name__ == "__main__":
    sys.exit(main())
