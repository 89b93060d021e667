"""What it is worth to know the sizes of images: `python -m bench.bench_sizes`, from the folder `tests`.

Requests name one of three sizes in equal parts, which take 0.25, 1 and 2.25 times as long as the default. The same
stack is simulated twice with the same arrivals: as it is, and blind to size, where planner and router take every image
for one of the default size and only workers know better. Plans fill the fleet, so each line says how busy it was.
``planned`` is the work that plans expected for the requests that came, divided by the work that workers did.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from cascade_profiler.frontier.profiles import LoadedProfile, load_profile
from cascade_profiler.simulate.campaign import CampaignRequest, planner_for, run_once
from cascade_profiler.simulate.outcomes import Way
from cascade_profiler.simulate.turns import Turns

CLASS: Final = "nvidia-l40s"
WORKERS: Final = 16
OBJECTIVE_S: Final = 12.0
SWITCH_S: Final = 0.12
WORKS: Final = {"512x512": 0.25, "1024x1024": 1.0, "1536x1536": 2.25}
DEFAULT: Final = "1024x1024"
RATES: Final = (10.0, 25.0)


def sized(profile: LoadedProfile) -> LoadedProfile:
    """The profile with rows for each size; its own are those of the default."""
    own = profile.profile.spec
    execution = []
    for size, work in sorted(WORKS.items(), key=lambda item: item[0] != DEFAULT):
        for row in own.execution:
            p50, p95 = (round(work * micros) for micros in (row.p50_micros, row.p95_micros))
            execution.append(row.model_copy(update={"size": size, "p50_micros": p50, "p95_micros": p95}))
    spec = own.model_copy(update={"execution": execution})
    return replace(profile, sized=profile.profile.model_copy(update={"spec": spec}))


@dataclass(frozen=True)
class Figures:
    """Of all requests of a run; those without an image count as if they had waited for an objective."""

    late_percent: float
    degraded_percent: float
    p50_s: float
    p99_s: float
    heavy: float
    busy: float
    planned: float


def measure(request: CampaignRequest, seeds: int) -> Figures:
    """The mean of several runs."""
    planner, found = planner_for(request), []
    for seed in range(seeds):
        run = run_once(request, "hybrid", seed, progress=lambda _: None, planner=planner)
        seen = run.outcomes
        seconds = np.where(np.isfinite(seen.latency_s), seen.latency_s, OBJECTIVE_S)
        found.append(
            (
                100 * float(seen.violations.mean()),
                100 * float((seen.way == Way.DEGRADED).mean()),
                *(float(np.quantile(seconds, level)) for level in (0.5, 0.99)),
                float(np.isin(seen.way, (Way.DIRECT, Way.ESCALATED)).mean()),
                run.gpu_seconds / (WORKERS * float(seen.arrival_s[-1])),
                run.figures["planned_work_s"] / run.gpu_seconds,
            )
        )
    return Figures(*(float(value) for value in np.mean(found, axis=0)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--rate", type=float, action="append", help="requests per second; default: 10 and 25")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    profile = sized(load_profile("hadis-726"))
    results: dict[str, dict[str, float]] = {}
    print(f"{'case':<28}{'late %':>9}{'degraded %':>12}{'p50 s':>8}{'p99 s':>8}{'heavy':>8}{'busy':>7}{'planned':>9}")
    for rate in options.rate or RATES:
        for turns in (None, Turns.SHORT_FIRST):
            request = CampaignRequest(
                profile,
                f"poisson:rate={rate:g},seconds={options.seconds}",
                ("hybrid",),
                {CLASS: WORKERS},
                OBJECTIVE_S,
                options.seeds,
                SWITCH_S,
                turns=turns,
                sizes=dict.fromkeys(WORKS, 1.0),
            )
            pair = {}
            for blind in (False, True):
                name = f"{rate:g}/s {'shared' if turns else 'dedicated'}{', blind' if blind else ''}"
                found = pair[blind] = measure(replace(request, blind=blind), options.seeds)
                results[name] = asdict(found)
                print(
                    f"{name:<28}{found.late_percent:9.3f}{found.degraded_percent:12.2f}{found.p50_s:8.3f}"
                    f"{found.p99_s:8.3f}{found.heavy:8.3f}{found.busy:7.3f}{found.planned:9.3f}",
                    flush=True,
                )
            print(f"{'':<28}p99 {100 * (1 - pair[False].p99_s / pair[True].p99_s):.0f} % better than blind to size")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
