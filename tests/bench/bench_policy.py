"""The product's policy against HADIS in the same simulator and on the same traces, with the fluid limit beside.

Ratios are to the baselines of the same run: violations of HADIS per violation of ours where both pay the same switch
cost, and the quality gained over it. `--seeds` trades time for certainty (a run of a six-minute trace takes some ten
seconds of one core).

    cd tests && CASCADE_REFERENCE_DATA=… python -m bench.bench_policy [--seeds 5] [--only 1to64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cascade_profiler.frontier.profiles import LoadedProfile, load_profile
from cascade_profiler.simulate.campaign import Request, simulate
from cascade_profiler.simulate.limits import fluid_limit
from cascade_profiler.simulate.runs import Failure
from cascade_profiler.simulate.traces import load_trace

CLASS, WORKERS, OBJECTIVE_S = "nvidia-l40s", 16, 6.0
IN_PLACE_S, POD_START_S = 0.12, 4.5
FLASH = "flash:rate=16,factor=4,at=100,length=6,seconds=200"
STEADY = "poisson:rate=30,seconds=200"


@dataclass(frozen=True)
class Case:
    """A trace at a switch cost; ``free`` lets the baseline switch for nothing, as published."""

    name: str
    trace: str
    switch_s: float
    free: bool = False
    failures: tuple[Failure, ...] = ()


CASES = (
    Case("1to64, in place", "hadis_1to64", IN_PLACE_S, free=True),
    Case("1to20, in place", "hadis_1to20", IN_PLACE_S, free=True),
    Case("1to40, in place", "hadis_1to40", IN_PLACE_S, free=True),
    Case("1to64, pod starts", "hadis_1to64", POD_START_S),
    Case("1to20, pod starts", "hadis_1to20", POD_START_S),
    Case("1to40, pod starts", "hadis_1to40", POD_START_S),
    Case("flash crowd, in place", FLASH, IN_PLACE_S),
    Case("flash crowd, pod starts", FLASH, POD_START_S),
    Case("2 of 16 lost for 45 s", STEADY, IN_PLACE_S, failures=(Failure(80.0, 45.0, 2),)),
)


def measure(case: Case, profile: LoadedProfile, *, seeds: int) -> dict[str, float]:
    """Figures of both policies, and the limit."""
    request = Request(
        profile, case.trace, ("hybrid",), {CLASS: WORKERS}, OBJECTIVE_S, seeds, case.switch_s, failures=case.failures
    )
    (ours,) = simulate(request, told=_told)
    baseline = replace(request, policies=("hadis",), switch_s=None if case.free else case.switch_s)
    (theirs,) = simulate(baseline, told=_told)
    time_limit, request_limit = fluid_limit(
        profile.profile.spec, load_trace(case.trace), accelerator_class=CLASS, workers=WORKERS
    )
    return {
        **{f"ours_{name}": value for name, value in ours.figures.items()},
        **{f"hadis_{name}": value for name, value in theirs.figures.items()},
        "limit_time": time_limit,
        "limit_request": request_limit,
    }


def line(case: Case, found: dict[str, float]) -> str:
    """One row of the table."""
    late, theirs = found["ours_violation_percent"], found["hadis_violation_percent"]
    ratio = f"{theirs / late:6.1f}x" if late > 0 else "   none"
    gap = 100 * (found["ours_quality_time_mean"] / found["limit_time"] - 1)
    return (
        f"{case.name:<24}{found['ours_quality_time_mean']:8.3f}{found['ours_quality_request_mean']:8.3f}"
        f"{late:9.3f}{found['ours_switches']:6.0f} |{found['hadis_quality_time_mean']:8.3f}"
        f"{found['hadis_quality_request_mean']:8.3f}{theirs:9.3f}{found['hadis_switches']:6.0f} |{ratio}"
        f"{found['hadis_quality_time_mean'] - found['ours_quality_time_mean']:7.2f} |"
        f"{found['limit_time']:8.3f}{found['limit_request']:8.3f}{gap:7.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    profile = load_profile("hadis-726")
    print(f"{'':<24}{'hybrid':>31} |{'hadis':>31} |{'hadis / hybrid':>14} |{'fluid limit':>23}")
    columns = f"{'time':>8}{'request':>8}{'late %':>9}{'sw':>6} |"
    print(f"{'case':<24}{columns}{columns}{'late':>7}{'gain':>7} |{'time':>8}{'request':>8}{'gap %':>7}")
    results: dict[str, dict[str, float]] = {}
    for case in CASES:
        if arguments.only in case.name:
            results[case.name] = measure(case, profile, seeds=arguments.seeds)
            print(line(case, results[case.name]), flush=True)
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
