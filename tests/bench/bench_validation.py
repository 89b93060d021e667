"""The simulator against the real local stack: the same arrivals, on the profile measured in the same run.

Two cases on slots that are pinned to a core each: the heavy variant on one slot, which leaves a core to router, Redis
and load generator, and the cascade on two. Each is loaded at 30 % and 60 % of what heavy replicas on all its slots
execute without batching. The real run goes through router, Redis and Triton; the simulated one through the same
planning, routing and dispatch code with the profile's times. Reported are medians over runs of the median and the 95 %
latency, and how much of the machine other processes used meanwhile: beyond a tenth the comparison says little, since a
profile is of a machine that is otherwise idle.

A shared host computes at a speed that others decide, and that may double within seconds. So the profile's times are
scaled by what the heavy variant's images took at the end of that very run, as its workers tell the routers (column
``speed``: the range of these factors). What a request takes beside its image on the idle stack is added to each.
Compared is what becomes of such times in queues, batches, routes and escalations; how far the times themselves are
those of the profile is what ``cascade drift`` tells.

    cd tests && python -m bench.bench_validation [--runs 5] [--seconds 30] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import tritonclient.grpc as triton
import yaml

from cascade_api.local import read_addresses
from cascade_api.names import GRPC_DIRECT, OUTPUT_BATCH_TIME, CascadeRef
from cascade_api.plan import Plan
from cascade_api.report import RouterReport
from cascade_api.settings import PlannerSettings
from cascade_models import manifest as model_manifest
from cascade_operator.planning.planner import Planner
from cascade_profiler.frontier.profiles import LoadedProfile, load_profile
from cascade_profiler.load.arrivals import poisson
from cascade_profiler.measure.replica import inference
from cascade_profiler.simulate.production import ProductionSystem
from cascade_profiler.simulate.runs import Scenario
from cascade_profiler.simulate.scores import drawn_scores
from cascade_profiler.simulate.traces import PROMPTS, Trace
from support.local_run import CASCADE, ROOT, LocalRun
from support.router import HARD, Made, inputs_of

LOADS = (0.3, 0.6)
SLOTS = {"all-heavy": 1, "hybrid": 2}
"""By policy."""
P50_TOLERANCE, P95_TOLERANCE = 0.15, 0.30
BUSY = 0.1
"""Part of the machine used by others beyond which the comparison says little."""
WARM_UP_S = 8
IDLE_REQUESTS = 15

Quantiles = tuple[float, float]


def measured_profile(folder: Path, *, seconds: float) -> Path:
    """The example with a profile of this machine, now."""
    path = folder / "measured.yaml"
    path.write_text((ROOT / "examples" / "shapes.yaml").read_text())
    options = ["--prompts", "200", "--seconds", str(seconds)]
    subprocess.run([str(CASCADE), "profile", "-f", str(path), "-o", str(path), *options], check=True)
    return path


def manifest(measured: Path, policy: str, *, factor: float = 1.0, beside_s: float = 0.0) -> str:
    """Its text with another policy and its slots, and the profile of a machine that takes ``factor`` times as long.

    ``beside_s`` comes to every execution: a replica with one credit gets its next request after the answer to the last.
    """
    documents = list(yaml.safe_load_all(measured.read_text()))
    documents[0]["spec"]["policy"]["name"] = policy
    documents[0]["spec"]["workers"][0] |= {"min": 0, "max": SLOTS[policy], "hosting": "dedicated"}
    spec = documents[1]["spec"]
    for row in [*spec["execution"], *spec["discriminator"]]:
        row |= {name: round(row[name] * factor) for name in ("p50Micros", "p95Micros")}
    for row in spec["execution"]:
        row |= {name: round(row[name] + beside_s * 1e6) for name in ("p50Micros", "p95Micros")}
    return str(yaml.safe_dump_all(documents, sort_keys=False))


def real(run: LocalRun, *, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """What `cascade load` found."""
    arguments = ("--rate", str(rate), "--duration", f"{seconds:g}s", "--seed", str(seed), "--deadline", "10s")
    with run.start_load(*arguments) as load:
        out, err = load.communicate(timeout=seconds + 120)
    if load.returncode:
        raise SystemExit(err)
    return dict(json.loads(out))


def simulated(loaded: LoadedProfile, policy: str, *, rate: float, seconds: float, seed: int) -> Quantiles:
    """Median and 95 % latency in the simulator, of the arrivals that `cascade load` draws from this seed."""
    times = np.asarray(list(poisson(rate=rate, duration_s=seconds, rng=random.Random(seed))))
    scenario = Scenario(
        profile=loaded,
        trace=Trace("load", times, np.arange(len(times)) % PROMPTS),
        scores=drawn_scores([row.variant for row in loaded.profile.spec.execution], prompts=PROMPTS, seed=seed),
        workers={"cpu": SLOTS[policy]},
        objective_s=2.0,
        seed=seed,
        switch_s=None,
        failures=(),
    )
    outcomes = (
        ProductionSystem(scenario, policy=policy, planner=Planner(PlannerSettings())).run(lambda part: None).outcomes
    )
    p50, p95 = np.quantile(outcomes.latency_s[~outcomes.lost], (0.5, 0.95))
    return float(p50), float(p95)


def in_force(run: LocalRun) -> tuple[Plan, list[RouterReport]]:
    """The plan, and the reports of the routers."""
    addresses = read_addresses(run.state.path)
    assert addresses is not None
    ref = CascadeRef("default", "shapes")
    with redis.Redis.from_url(addresses.redis) as client:
        plan = Plan.model_validate_json(client.get(ref.plan_key) or b"")
        reports = [client.get(key) for key in client.scan_iter(match=ref.scores_key("*"))]
    return plan, [RouterReport.model_validate_json(report) for report in reports if report]


def image_s(run: LocalRun, variant: str) -> float:
    """Seconds of an image of a variant, by the latest batches that its workers told the routers of."""
    plan, reports = in_force(run)
    pools = {pool.name for pool in plan.pools if pool.variant == variant}
    told = [times for report in reports for pool, times in report.batch_times.items() if pool in pools]
    return statistics.median(times.seconds / times.images for times in told)


def idle_times_s(run: LocalRun, heavy: str) -> tuple[float, float]:
    """Seconds of one heavy image, and what its request takes beside: medians, while nothing else is asked."""
    plan, _ = in_force(run)
    addresses = read_addresses(run.state.path)
    assert addresses is not None
    variant = plan.variants[heavy]
    endpoint = next(worker.endpoint for worker in plan.workers if worker.credits.get(heavy))
    images, routed = [], []
    with (
        triton.InferenceServerClient(addresses.grpc) as router,
        triton.InferenceServerClient(endpoint, channel_args=[GRPC_DIRECT]) as worker,
    ):
        for seed in range(IDLE_REQUESTS):
            asked = inference([HARD], [seed], variant.settings.parameters, batch_time=True)
            ((seconds, _),) = worker.infer(variant.model, **asked, client_timeout=60).as_numpy(OUTPUT_BATCH_TIME)
            images.append(float(seconds))
            begun = time.perf_counter()
            made = Made(router.infer("shapes", inputs_of(HARD, seed=seed), client_timeout=60))
            if made.variant == heavy and made.route != "escalated":
                routed.append(time.perf_counter() - begun)
    alone_s = statistics.median(images)
    return alone_s, max(statistics.median(routed) - alone_s, 0.0)


class Others:
    """How much of the machine processes that are not of this run use."""

    def __init__(self, run: LocalRun) -> None:
        self._run = run
        self._total, self._own = self._now()

    def share(self) -> float:
        """Since the beginning, of all cores."""
        total, own = self._now()
        elapsed = sum(total) - sum(self._total)
        idle = (total.idle + total.iowait) - (self._total.idle + self._total.iowait)
        return max(0.0, (elapsed - idle - (own - self._own)) / elapsed)

    def _now(self) -> tuple[Any, float]:
        own = 0.0
        supervisor = self._run.supervisor
        for root in [psutil.Process(), *([psutil.Process(supervisor)] if supervisor else [])]:
            for process in [root, *root.children(recursive=True)]:
                times = process.cpu_times()
                own += times.user + times.system + times.children_user + times.children_system
        return psutil.cpu_times(), own


def compare(
    folder: Path, measured: Path, policy: str, load: float, *, heavy: str, runs: int, seconds: float
) -> dict[str, Any]:
    """Medians over the runs, real and simulated; ``heavy`` is a variant's name."""
    profiled = load_profile(str(measured)).profile.spec
    profiled_s = max(row.p50_micros for row in profiled.execution if row.batch == 1) / 1e6
    run = LocalRun(folder, manifest=manifest(measured, policy))
    each = []
    try:
        done = run.up()
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        real(run, rate=5, seconds=WARM_UP_S, seed=99)
        others = Others(run)
        for seed in range(runs):
            alone_s, beside_s = idle_times_s(run, heavy)
            rate = load * SLOTS[policy] / alone_s
            seen = real(run, rate=rate, seconds=seconds, seed=seed)["latency"]
            factor = image_s(run, heavy) / profiled_s
            now = folder / "now.yaml"
            now.write_text(manifest(measured, policy, factor=factor, beside_s=beside_s))
            made = simulated(load_profile(str(now)), policy, rate=rate, seconds=seconds, seed=seed)
            each.append({"real": (seen["p50"], seen["p95"]), "simulated": made, "speed": factor})
        share = others.share()
    finally:
        run.end()
    medians = {
        name: tuple(statistics.median(values) for values in zip(*(found[name] for found in each), strict=True))
        for name in ("real", "simulated")
    }
    return {**medians, "runs": each, "others": share}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--profile-seconds", type=float, default=40.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    missed = []
    with tempfile.TemporaryDirectory(prefix="cascade-validation-") as scratch:
        measured = measured_profile(Path(scratch), seconds=arguments.profile_seconds)
        heavy = max(model_manifest.read_variants(measured.read_text()), key=lambda variant: variant.settings.steps)
        columns = "".join(f"{name + ' real':>10}{'simulated':>10}{'':>8}" for name in ("p50", "p95"))
        print(f"{'case':<24}{columns}{'speed':>12}{'others':>8}")
        for policy, load in itertools.product(SLOTS, LOADS):
            name = f"{policy}, {load:.0%}"
            folder = Path(scratch) / f"{policy}-{load:g}"
            folder.mkdir()
            found = compare(
                folder,
                measured,
                policy,
                load,
                heavy=heavy.name,
                runs=arguments.runs,
                seconds=arguments.seconds,
            )
            results[name] = found
            pairs = list(zip(found["real"], found["simulated"], strict=True))
            off = [simulated_s / real_s - 1 for real_s, simulated_s in pairs]
            if abs(off[0]) > P50_TOLERANCE or abs(off[1]) > P95_TOLERANCE:
                missed.append(name)
            columns = "".join(f"{r:>10.3f}{s:>10.3f}{part:>+8.0%}" for (r, s), part in zip(pairs, off, strict=True))
            factors = [each["speed"] for each in found["runs"]]
            told = f"{min(factors):.2f}-{max(factors):.2f}"
            print(f"{name:<24}{columns}{told:>12}{found['others']:>8.0%}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    busiest = max(found["others"] for found in results.values())
    if busiest > BUSY:
        print(f"other processes used up to {busiest:.0%} of the machine: run this again on a quiet one")
    limits = f"p50 within {P50_TOLERANCE:.0%}, p95 within {P95_TOLERANCE:.0%}"
    print(f"target: {limits}: {'met' if not missed else 'MISSED: ' + '; '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
