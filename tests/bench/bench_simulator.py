"""How fast the simulator plays the product: CPU seconds of one core for 200 000 requests, planning included.

A published trace is repeated until it has the requests asked for, and played with 16 workers. The baseline of the same
run is the published HADIS, whose planner and router are a few lines: what planning and routing by the product cost
beside the events themselves.

    cd tests && CASCADE_REFERENCE_DATA=… python -m bench.bench_simulator [--requests 200000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench.instances import CLASS, OBJECTIVE_S, TABLE
from cascade_profiler.frontier.profiles import load_profile
from cascade_profiler.simulate.campaign import CampaignRequest, simulate
from cascade_profiler.simulate.traces import Trace, load_trace

TRACE = "hadis_1to64"
WORKERS = 16
SWITCH_S = 0.12
PER_RUN = 200_000
TARGET_S = 60.0


def repeated(trace: Trace, *, requests: int, path: Path) -> None:
    """Write a trace of at least so many requests: the given one over and over."""
    length = trace.span_s + 1.0
    rounds = -(-requests // len(trace.times_s))
    lines = [
        f"{number * length + second:.6f},{prompt}"
        for number in range(rounds)
        for second, prompt in zip(trace.times_s.tolist(), trace.prompts.tolist(), strict=True)
    ]
    path.write_text("seconds,prompt\n" + "\n".join(lines[:requests]) + "\n", encoding="utf-8")


def cpu_s(policy: str, trace: Path) -> float:
    """CPU seconds of one simulation."""
    request = CampaignRequest(load_profile(TABLE), str(trace), (policy,), {CLASS: WORKERS}, OBJECTIVE_S, 1, SWITCH_S)
    began = time.process_time()
    simulate(request, told=_told)
    return time.process_time() - began


_said = [time.monotonic()]


def _told(policy: str, seed: int, part: float) -> None:
    if time.monotonic() - _said[0] > 5:
        _said[0] = time.monotonic()
        sys.stderr.write(f"  {policy}: {part:.0%}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=PER_RUN)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repeated.csv"
        repeated(load_trace(TRACE), requests=arguments.requests, path=path)
        ours, theirs = cpu_s("hybrid", path), cpu_s("hadis", path)
    scaled = ours * PER_RUN / arguments.requests
    print(
        f"{arguments.requests} requests on {WORKERS} workers: hybrid {ours:.1f} s ({arguments.requests / ours:.0f} per "
        f"CPU second), hadis {theirs:.1f} s, {ours / theirs:.2f}x; {PER_RUN} requests in {scaled:.0f} s "
        f"(target {TARGET_S:.0f})"
    )
    return 0 if scaled <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
