"""Realised shares of direct and escalated prompts against the plan, through a sudden change of the prompt mix.

d is the share of the light images. The target holds for r, and for d where a stretch has 500 light images or more: with
fewer, two points are less than ten images, of which finding out about a change takes four.

The router's own chooser decides on streams of scores: 1 000 prompts of one mix, then 1 000 of another. The baseline of
the same run cuts the same streams at fixed thresholds, the exact quantiles of the first mix. An error is in percentage
points over a stretch of 1 000 prompts; each cell is the mean over plans and seeds with its standard deviation, and the
worst. Score distributions are synthetic, and, where CASCADE_REFERENCE_DATA is set, those of the published prompts and
discriminator (single images) with another set of prompts, or another model's confidences, after the change.

    cd tests && python -m bench.bench_shares [--seeds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_api.plan import Plan
from cascade_profiler.frontier.inputs import lines_of
from cascade_profiler.frontier.reference import VARIABLE, reference_folder
from cascade_profiler.simulate.scores import confidences
from cascade_router.cascade.choosing import CONFIDENCE_CUTS, Chooser
from cascade_router.prompts.quantiles import WINDOW
from cascade_router.prompts.scorers import make_scorer
from cascade_router.prompts.shares import ROW_STEP, EvenDraws, draw_row
from support.plans import make_plan

PROMPTS = 1000
TARGET_POINTS = 2.0
LEAST_IMAGES = 500
"""Light images of a stretch from which on the target holds for the share that escalates."""
CALIBRATION = 20_000

Draw = Callable[[random.Random], float]
Row = tuple[float, float, float]
"""Share of the prompts, direct, escalation."""


@dataclass(frozen=True)
class Mix:
    """Where hardness and confidence of a prompt come from."""

    hardness: Draw
    confidence: Draw


PLANS: dict[str, tuple[Row, ...]] = {
    "r .1 d .3": ((1.0, 0.1, 0.3),),
    "r .3 d .1": ((1.0, 0.3, 0.1),),
    "r .5 d .5": ((1.0, 0.5, 0.5),),
    "r .8 d .2": ((1.0, 0.8, 0.2),),
    "mixed": ((0.7, 0.2, 0.1), (0.3, 0.4, 0.3)),
}


class Given:
    """A scorer whose prompts are their own hardness."""

    name = "given"
    quantiles = (0.0, 0.25, 0.5, 0.75, 1.0)

    def score(self, prompt: str, *, draw: float) -> float:
        return float(prompt)


class Live:
    """The router's chooser."""

    def __init__(self, rows: Sequence[Row], first: Mix, seed: int) -> None:
        self._plan = plan_of(rows)
        self._chooser = Chooser(scorer=Given(), start=random.Random(seed).random())

    def decide(self, hardness: float, confidence: float) -> tuple[bool, bool]:
        choice = self._chooser.choose(self._plan, repr(hardness), coin=0.5)
        return choice.direct, not choice.direct and self._chooser.escalates(choice.row, confidence)

    @property
    def remembered(self) -> int:
        """Scores in memory."""
        cuts = [self._chooser._hardness, *self._chooser._confidence.values()]
        return sum(cut.count for cut in cuts)


class Fixed:
    """Thresholds at the quantiles of the first mix, for good."""

    def __init__(self, rows: Sequence[Row], first: Mix, seed: int) -> None:
        rng = random.Random(-1 - seed)
        hardness = np.asarray([first.hardness(rng) for _ in range(CALIBRATION)])
        confidence = np.asarray([first.confidence(rng) for _ in range(CALIBRATION)])
        self._cuts = [(np.quantile(hardness, 1 - r), np.quantile(confidence, d)) for _, r, d in rows]
        self._shares = [share for share, _, _ in rows]
        self._draws = EvenDraws(step=ROW_STEP)

    def decide(self, hardness: float, confidence: float) -> tuple[bool, bool]:
        hard, sure = self._cuts[draw_row(self._shares, self._draws.next())]
        direct = bool(hardness > hard)
        return direct, not direct and bool(confidence < sure)


def plan_of(rows: Sequence[Row]) -> Plan:
    """A plan with these rows and no seed thresholds."""
    document = json.loads(make_plan().to_json())
    document["rows"] = [
        {"share": share, "chain": ["light", "heavy"], "direct": r, "escalation": d} for share, r, d in rows
    ]
    return Plan.model_validate(document)


def errors(decider: Live | Fixed, rows: Sequence[Row], mix: Mix, rng: random.Random) -> tuple[float, float]:
    """Percentage points by which direct and escalated shares miss the plan over the next prompts."""
    direct = escalated = 0
    for _ in range(PROMPTS):
        went, again = decider.decide(mix.hardness(rng), mix.confidence(rng))
        direct += went
        escalated += again
    wanted_direct = sum(share * r for share, r, _ in rows)
    wanted = sum(share * (1 - r) * d for share, r, d in rows) / (1 - wanted_direct)
    light = PROMPTS - direct
    return 100 * abs(direct / PROMPTS - wanted_direct), 100 * abs((escalated / light if light else 0) - wanted)


def synthetic() -> dict[str, tuple[Mix, Mix]]:
    """Pairs of mixes, before and after the change."""
    even = Mix(lambda rng: rng.random(), lambda rng: rng.random())
    shifted = Mix(lambda rng: rng.gauss(3, 0.2), lambda rng: 0.9 + 0.1 * rng.random())
    few = Mix(lambda rng: rng.choice((0.2, 0.4, 1.2, 2.4)), lambda rng: rng.choice((0.1, 0.5, 0.9)))
    alike = Mix(lambda rng: 1.0, lambda rng: 0.5)
    saturated = Mix(lambda rng: rng.lognormvariate(0, 2), lambda rng: min(rng.lognormvariate(-8, 3), 1.0))
    inverse = Mix(lambda rng: -rng.lognormvariate(0, 2), lambda rng: 1 - min(rng.lognormvariate(-8, 3), 1.0))
    return {
        "even → shifted": (even, shifted),
        "shifted → even": (shifted, even),
        "few values → saturated": (few, saturated),
        "saturated → inverse": (saturated, inverse),
        "even → all alike": (even, alike),
        "all alike → few values": (alike, few),
    }


def reference() -> dict[str, tuple[Mix, Mix]]:
    """The same, of the published prompts and confidences."""
    folder = reference_folder()
    rules = make_scorer("rules")
    hardness = [
        [rules.score(text, draw=0) for text in lines_of(folder / f"prompts_{name}.txt") if text.strip()]
        for name in ("imagenet1k_hr_5k", "diffusiondb_5k")
    ]
    sure = [confidences(folder / f"disc_scores_model_{number}.txt").ravel().tolist() for number in range(3)]

    def mix(prompts: int, model: int) -> Mix:
        return Mix(lambda rng: rng.choice(hardness[prompts]), lambda rng: rng.choice(sure[model]))

    return {
        "captions → DiffusionDB": (mix(0, 0), mix(1, 2)),
        "DiffusionDB → captions": (mix(1, 1), mix(0, 0)),
        "captions, no change": (mix(0, 1), mix(0, 1)),
    }


def measure(first: Mix, second: Mix, *, seeds: int) -> dict[str, list[float]]:
    """Errors of both deciders before and after the change, over plans and seeds; and what the live one remembers."""
    found: dict[str, list[float]] = {}
    for rows in PLANS.values():
        for seed in range(seeds):
            for name, kind in (("live", Live), ("fixed", Fixed)):
                rng = random.Random(seed)
                decider = kind(rows, first, seed)
                for stretch, mix in (("before", first), ("after", second)):
                    r, d = errors(decider, rows, mix, rng)
                    found.setdefault(f"{name} r {stretch}", []).append(r)
                    found.setdefault(f"{name} d {stretch}", []).append(d)
                    few = PROMPTS * sum(share * (1 - direct) for share, direct, _ in rows) < LEAST_IMAGES
                    found.setdefault(f"{name} judged", []).append(r if few else max(r, d))
                if isinstance(decider, Live):
                    found.setdefault("remembered", []).append(decider.remembered)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mixes = synthetic() | (reference() if os.environ.get(VARIABLE) else {})
    cells = [f"{share} {stretch}" for stretch in ("before", "after") for share in ("r", "d")]
    print(f"errors in points, mean ± sd (worst), {len(PLANS)} plans, {arguments.seeds} seeds, stretches of {PROMPTS}")
    print(f"{'mixes':<26}{'cut':<7}" + "".join(f"{cell:>22}" for cell in cells))
    results: dict[str, dict[str, list[float]]] = {}
    for title, (first, second) in mixes.items():
        found = results[title] = measure(first, second, seeds=arguments.seeds)
        for name in ("live", "fixed"):
            text = "".join(
                f"{np.mean(v):>9.2f} ±{np.std(v, ddof=1):5.2f} ({max(v):4.1f})"
                for v in (found[f"{name} {cell}"] for cell in cells)
            )
            print(f"{title if name == 'live' else '':<26}{name:<7}{text}", flush=True)
    worst = max(max(found["live judged"]) for found in results.values())
    rarest = max(max(found[f"live {cell}"]) for found in results.values() for cell in cells)
    most = max(max(found["remembered"]) for found in results.values())
    bound = WINDOW * (1 + CONFIDENCE_CUTS)
    print(f"remembered at most {most:.0f} scores; the bound is {bound}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    met = worst <= TARGET_POINTS
    print(
        f"target: within {TARGET_POINTS:g} points: worst is {worst:.2f}: {'met' if met else 'MISSED'}; "
        f"with fewer than {LEAST_IMAGES} light images the worst is {rarest:.2f}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
