"""Quality at equal compute through the running service, on held-out prompts: is the cascade worth having?

Starts a real Redis, a real Triton for each model and a real router; publishes one plan per policy, sends the same
prompts with the same seeds through each, and lets the checker judge every image. Baseline of every ratio is random
routing at the same compute, measured in the same run: a coin sends prompts to the heavy model.

    cd tests && python -m bench.cascade_quality [--prompts 500] [--compute 0.5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as triton

from cascade_api.documents import load_cascades
from cascade_api.plan import Plan
from cascade_api.profile import ProfileSpec
from cascade_models.shapes import checker, grammar
from support.redis import RedisServer
from support.router import RouterProcess, inputs_of, make_plan, publish
from support.triton import EXAMPLE, TritonServer, render, shapes_manifest
from support.waiting import wait_for

LIGHT, HEAVY = "shapes-light", "shapes-heavy"
IN_FLIGHT = 4
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Compute of one image relative to a heavy one, from the profile at batch 1."""

    light: float
    judging: float

    def of(self, direct: float, escalation: float) -> float:
        """Expected compute of a prompt at (r, d)."""
        heavy = direct + (1 - direct) * escalation
        return (1 - direct) * (self.light + self.judging) + heavy

    def escalation(self, direct: float, compute: float) -> float | None:
        """The d that spends ``compute`` at this r; None where there is none in 0..1."""
        if direct >= 1:
            return None
        d = (compute - direct) / (1 - direct) - self.light - self.judging
        return d if 0 <= d <= 1 else None

    def coin(self, compute: float) -> float:
        """The share that random routing sends to the heavy model; its light images are not judged."""
        return (compute - self.light) / (1 - self.light)


@dataclass(frozen=True)
class Arm:
    """One policy: a row, who scores hardness, and whether light images are judged."""

    name: str
    direct: float
    escalation: float
    scorer: str = "rules"
    judged: bool = True


@dataclass(frozen=True)
class Result:
    """Scores by prompt, and how the images were made."""

    arm: Arm
    q2: Array
    strict: Array
    routes: Counter[str]

    def compute(self, costs: Costs) -> float:
        """Compute really spent per prompt."""
        total = sum(self.routes.values())
        direct = self.routes["direct"] / total
        escalated = self.routes["escalated"] / total
        return (1 - direct) * (costs.light + (costs.judging if self.arm.judged else 0)) + direct + escalated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--compute", type=float, default=0.5, help="share of all-heavy's compute")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    options = parser.parse_args()
    file = load_cascades(EXAMPLE.read_text(), source=str(EXAMPLE))
    profile = file.profile_of(file.cascades[0]).spec
    costs = costs_of(profile)
    arms = arms_of(profile, costs, options.compute)
    results = serve(arms, prompts_of(options.prompts, options.seed))
    figures = report(results, costs, options.seed)
    if options.json is not None:
        options.json.write_text(
            json.dumps({"prompts": options.prompts, "seed": options.seed, **figures}, indent=1) + "\n"
        )


def prompts_of(count: int, seed: int) -> list[grammar.Scene]:
    """Held-out prompts, uniform in the number of objects: half with held-out combinations, half unseen texts."""
    rng = np.random.default_rng(seed)
    splits: tuple[grammar.Split, grammar.Split] = ("heldout", "test")
    return [grammar.sample_scene(rng, objects=1 + index % 4, split=splits[(index // 4) % 2]) for index in range(count)]


def costs_of(profile: ProfileSpec) -> Costs:
    """Costs at batch 1 relative to the heavy model."""
    alone = {row.variant: row.p50_micros for row in profile.execution if row.batch == 1}
    judging = next(row.p50_micros for row in profile.discriminator if row.batch == 1)
    return Costs(light=alone[LIGHT] / alone[HEAVY], judging=judging / alone[HEAVY])


def arms_of(profile: ProfileSpec, costs: Costs, compute: float) -> list[Arm]:
    """The policies compared; the hybrid's row is the profile's best at this compute."""
    rules_only = (compute - costs.light) / (1 - costs.light)
    cascade = costs.escalation(0.0, compute)
    assert cascade is not None, "the light model alone costs more than the compute allowed"
    direct, escalation = best_row(profile, costs, compute)
    return [
        Arm("all-light", 0.0, 0.0, judged=False),
        Arm("all-heavy", 1.0, 0.0, judged=False),
        Arm("random", costs.coin(compute), 0.0, scorer="coin-flip", judged=False),
        Arm("prompt rule", rules_only, 0.0, judged=False),
        Arm("cascade", 0.0, cascade),
        Arm("hybrid", direct, escalation),
    ]


def best_row(profile: ProfileSpec, costs: Costs, compute: float) -> tuple[float, float]:
    """(r, d) of best profiled q2 that spends ``compute``, interpolated between the profile's rows."""
    grid = {(q.direct_percent, q.escalation_percent): q.values_milli["q2"] / 1000 for q in profile.quality}
    candidates = []
    for percent in sorted({r for r, _ in grid}):
        d = costs.escalation(percent / 100, compute)
        if d is None:
            continue
        known = sorted(e for r, e in grid if r == percent)
        value = float(np.interp(100 * d, known, [grid[percent, e] for e in known]))
        candidates.append((value, percent / 100, d))
    _, direct, escalation = max(candidates)
    return direct, escalation


def serve(arms: Sequence[Arm], scenes: Sequence[grammar.Scene]) -> list[Result]:
    """Every arm's images of every scene, through one router."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = home / "models"
        models.mkdir()
        render(shapes_manifest(), models)
        redis = RedisServer(home)
        redis.start()
        stack.callback(redis.kill)
        servers = {}
        for core, variant in enumerate((LIGHT, HEAVY)):
            server = TritonServer(models, home, load=[variant], replica_id=f"bench-{variant}")
            stack.callback(server.stop)
            servers[variant] = server.start("--core", str(core))
        replicas = {variant: [server.endpoint] for variant, server in servers.items()}
        results = []
        for number, arm in enumerate(arms):
            plan = make_plan(
                replicas,
                name=f"bench-{number}",
                direct=arm.direct,
                escalation=arm.escalation,
                objectiveS=60,
                scorer={"name": arm.scorer},
            )
            results.append(run(arm, plan, scenes, redis, home))
        return results


def run(arm: Arm, plan: Plan, scenes: Sequence[grammar.Scene], redis: RedisServer, home: Path) -> Result:
    """One arm through a router of its own, so that no live score distribution is inherited."""
    publish(redis, plan)
    router = RouterProcess(redis.url, home).start()
    try:
        router.wait_ready()
        name = plan.ref.name
        wait_for(lambda: router.client.is_model_ready(name), what="the router to know the cascade")
        began = time.monotonic()
        answers = asyncio.run(ask_all(router.grpc, name, scenes))
        took = time.monotonic() - began
    finally:
        router.stop()
    scores = [checker.check(image, scene) for (image, _), scene in zip(answers, scenes, strict=True)]
    routes = Counter(route for _, route in answers)
    sys.stderr.write(f"{arm.name}: {len(scenes)} images in {took:.0f} s, {dict(routes)}\n")
    return Result(arm, np.array([s.q2 for s in scores]), np.array([s.strict for s in scores]), routes)


async def ask_all(address: str, model: str, scenes: Sequence[grammar.Scene]) -> list[tuple[npt.NDArray[np.uint8], str]]:
    """(image, route) by scene; the seed of a scene is its place."""
    gate = asyncio.Semaphore(IN_FLIGHT)
    async with triton.InferenceServerClient(address) as client:

        async def ask(seed: int, scene: grammar.Scene) -> tuple[npt.NDArray[np.uint8], str]:
            async with gate:
                result = await client.infer(model, inputs_of(grammar.describe(scene), seed=seed))
            return result.as_numpy("image"), result.as_numpy("route")[0].decode()

        return await asyncio.gather(*(ask(seed, scene) for seed, scene in enumerate(scenes)))


def report(results: Sequence[Result], costs: Costs, seed: int) -> dict[str, Any]:
    """Print the table; the figures as data. Intervals are 95 % bootstrap intervals over prompts, paired.

    A policy is held against random routing at the compute that it really spent: the straight line between all-light
    and all-heavy, on which the measured random arm lies but for chance.
    """
    by_name = {result.arm.name: result for result in results}
    light, heavy = by_name["all-light"].q2, by_name["all-heavy"].q2
    draws = np.random.default_rng(seed).integers(0, len(heavy), size=(4000, len(heavy)))
    print(f"light : heavy = 1 : {1 / costs.light:.1f} in time; judging costs {costs.judging:.3f} of a heavy image")
    print("| policy | r | d | compute | q2 | random at that compute | strict | gap from random to all-heavy closed |")
    print("|---|---|---|---|---|---|---|---|")
    figures: dict[str, Any] = {}
    for result in results:
        arm, compute = result.arm, result.compute(costs)
        share = (compute - costs.light) / (1 - costs.light)
        random = light + share * (heavy - light)
        figure: dict[str, Any] = {
            "compute": compute,
            "q2": result.q2.mean(),
            "q2_interval": interval(result.q2[draws].mean(1)),
            "q2_random": random.mean(),
            "strict": result.strict.mean(),
            "routes": dict(result.routes),
        }
        closing = ""
        if arm.judged or (arm.scorer == "rules" and 0 < arm.direct < 1):
            gains, gaps = (result.q2 - random)[draws].mean(1), (heavy - random)[draws].mean(1)
            figure["gap_closed"] = (result.q2 - random).mean() / (heavy - random).mean()
            figure["gap_closed_interval"] = interval(gains / gaps)
            low, high = figure["gap_closed_interval"]
            closing = f"{figure['gap_closed']:.0%} ({low:.0%} to {high:.0%})"
        low, high = figure["q2_interval"]
        print(
            f"| {arm.name} | {arm.direct:.2f} | {arm.escalation:.2f} | {compute:.3f} "
            f"| {figure['q2']:.3f} ({low:.3f} to {high:.3f}) | {figure['q2_random']:.3f} "
            f"| {figure['strict']:.3f} | {closing} |"
        )
        figures[arm.name] = figure
    return figures


def interval(samples: Array) -> list[float]:
    """The central 95 %."""
    return [float(edge) for edge in np.percentile(samples, [2.5, 97.5])]


if __name__ == "__main__":
    main()
