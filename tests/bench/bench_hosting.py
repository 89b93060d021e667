"""Workers that hold all weights against workers that hold one, on the local stack under the same load.

Each stack serves the example on two pinned cores and is asked at three rates, one after the other, with the same
arrivals and prompts. Reported are latency, what was late, refused or lost, the quality (q2) of a sample of the answers,
and how many loads, unloads and starts of workers the operator began at each rate. The stacks take turns for some runs;
figures are medians over runs, with the range of q2.

    cd tests && python -m bench.bench_hosting [--runs 3] [--seconds 30] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import psutil

from support.local_run import LocalRun
from support.triton import shapes_manifest

RATES: Final = (20, 60, 100)
HOSTINGS: Final = ("dedicated", "shared")
WARM_UP_S: Final = 8.0
MOVES: Final = ("StartWorker", "StopWorker", "Load", "Unload")


@dataclass(frozen=True)
class Measured:
    """What `cascade load` found at one rate, and the moves that the operator began meanwhile."""

    sent: int
    p50_s: float
    p99_s: float
    late: int
    refused: int
    failed: int
    q2: float
    moves: int

    @property
    def in_time(self) -> float:
        """The share of the requests that were answered in time."""
        return 1 - (self.late + self.refused + self.failed) / self.sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each stack, in turns")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds of load at each rate")
    parser.add_argument("--output", type=Path, help="file for the table; default: it is printed")
    options = parser.parse_args()
    found: dict[tuple[str, int], list[Measured]] = {}
    for run in range(options.runs):
        for hosting in HOSTINGS if run % 2 == 0 else HOSTINGS[::-1]:
            for rate, measured in stack(hosting, options.seconds, seed=run).items():
                found.setdefault((hosting, rate), []).append(measured)
                print(f"run {run}, {hosting}, {rate}/s: {measured}", flush=True)
    text = table(found)
    print(text)
    if options.output:
        options.output.write_text(text)


def stack(hosting: str, seconds: float, *, seed: int) -> dict[int, Measured]:
    """A stack of its own, asked at each of the rates."""
    with tempfile.TemporaryDirectory() as folder:
        run = LocalRun(Path(folder), manifest=shapes_manifest(hosting=hosting))
        try:
            done = run.up()
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            asked(run, RATES[0], WARM_UP_S, seed=seed + 100)
            return {rate: asked(run, rate, seconds, seed=seed) for rate in RATES}
        finally:
            run.end()


def asked(run: LocalRun, rate: float, seconds: float, *, seed: int) -> Measured:
    """`cascade load` at one rate."""
    before = moves(run)
    with run.start_load("--rate", str(rate), "--duration", f"{seconds:g}s", "--seed", str(seed)) as load:
        out, err = load.communicate(timeout=seconds + 120)
    if not out:
        raise SystemExit(err)
    data = json.loads(out)
    refused = sum(data["refused"].values())
    failed = data["lost"] + data["silent"]
    return Measured(
        sent=data["sent"],
        p50_s=data["latency"]["p50"],
        p99_s=data["latency"]["p99"],
        late=data["violations"] - refused - failed,
        refused=refused,
        failed=failed,
        q2=data["quality"]["q2"]["mean"],
        moves=moves(run) - before,
    )


def moves(run: LocalRun) -> int:
    """How many moves the operator has begun, as its log tells."""
    lines = run.state.log_file("operator").read_text().splitlines()
    return sum("acting" in line and any(f"{move}(" in line for move in MOVES) for line in lines)


def table(found: dict[tuple[str, int], list[Measured]]) -> str:
    """The figures by rate, as Markdown."""
    lines = [
        f"{psutil.cpu_count()} virtual cores; medians of {len(next(iter(found.values())))} runs.\n",
        "| requests a second | hosting | p50 ms | p99 ms | in time | refused | failed | q2 | moves |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (hosting, rate), runs in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        q2 = [one.q2 for one in runs]
        cells = [
            f"{median([one.p50_s for one in runs]) * 1e3:.0f}",
            f"{median([one.p99_s for one in runs]) * 1e3:.0f}",
            f"{median([one.in_time for one in runs]):.2%}",
            f"{median([one.refused for one in runs]):.0f}",
            f"{median([one.failed for one in runs]):.0f}",
            f"{median(q2):.4f} ({min(q2):.4f} to {max(q2):.4f})",
            f"{median([one.moves for one in runs]):.0f}",
        ]
        lines.append(f"| {rate} | {hosting} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
