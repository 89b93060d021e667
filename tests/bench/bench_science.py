"""What a cascade is worth on the built-in testbed, where a checker knows the truth: every policy at equal compute.

Draws images of both variants for held-out prompts with several seeds each, lets the checker and the discriminator
judge them, and computes from these images what each policy would have served: single models, random routing, the prompt
rule alone, the cascade alone, and both together. Whatever is chosen (the hybrid's share of direct prompts) is chosen on
other prompts. Intervals are 95 % bootstrap intervals over prompts, paired. Writes docs/benchmarks/science.md and its
figures.

    cd tests && python -m bench.bench_science [--prompts 600] [--seeds 2] [--cache FILE.npz] [--output DIR]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade_models import discriminators, engines, judging
from cascade_models.shapes import assets, checker, grammar, sampling, tokens
from cascade_profiler.measure.grid import Floats, Ranking
from cascade_router.prompts.scorers import make_scorer

RATIOS = (18, 10, 50)
BUDGETS = (0.3, 0.5, 0.7)
CURVE = tuple(round(0.15 + 0.05 * step, 2) for step in range(16))
DIRECT = tuple(round(0.05 * step, 2) for step in range(15))
POLICIES = ("prompt rule", "cascade", "hybrid")
TARGETS = {0.5: 0.55, 0.7: 0.80}
JUDGING = 0.0125
"""A judgement, in heavy images: its time beside the heavy variant's at batch 1 (examples/shapes.yaml)."""
MIXED_RATIOS = (2, 4, 10, 18, 50)
MIXED_BUDGET = 0.7
BLURS = (0.0, 3.0, 6.0)
"""Deviation of noise on the logit of the confidence: discriminators that see less."""
DRAWS = 1000
CHUNK = 20
FITTING_SEED, HELDOUT_SEED = 31, 32
DOCUMENTS = Path(__file__).parents[2] / "docs" / "benchmarks"


@dataclass(frozen=True)
class Images:
    """N images of each variant, prompt by prompt, seed by seed: scores, confidence in the light ones, hardness."""

    prompt: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int64]
    heldout: npt.NDArray[np.bool_]
    hardness: Floats
    confidence: Floats
    light: Floats
    heavy: Floats
    light_strict: Floats
    heavy_strict: Floats


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval and standard error."""

    value: float
    low: float
    high: float
    error: float

    @classmethod
    def of(cls, value: float, draws: Sequence[float]) -> Figure:
        low, high = np.quantile(draws, (0.025, 0.975))
        return cls(value, float(low), float(high), float(np.std(draws, ddof=1)))

    def text(self, digits: int = 3) -> str:
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"

    def percent(self) -> str:
        return f"{self.value:.0%} ({self.low:.0%} to {self.high:.0%})"


@dataclass(frozen=True)
class Cell:
    """One policy at one budget: q2, and the share of the gap from random routing to all-heavy that it closes."""

    q2: Figure
    closed: Figure
    gain: Figure
    """q2 above random routing's at the same compute."""


@dataclass(frozen=True)
class Comparison:
    """All policies at one price of a light image."""

    ratio: int
    random: Mapping[float, float]
    cells: Mapping[tuple[str, float], Cell]
    direct: Mapping[float, float]


@dataclass(frozen=True)
class Mixing:
    """The hybrid beside the better of its parts alone, for a discriminator that sees less than it could."""

    auc: float
    ratio: int
    direct: float
    better: str
    ahead: Figure
    """q2 of the hybrid above that of the better part."""


class Policies:
    """What each policy serves, for any weighting of the images."""

    def __init__(self, images: Images, ratio: int) -> None:
        self._images = images
        self._light = 1 / ratio
        self._hardest, self._doubtful = Ranking(images.hardness), Ranking(-images.confidence)

    def random(self, weights: Floats, budget: float) -> float:
        """A coin sends prompts to the heavy model; light images are not judged."""
        share = (budget - self._light) / (1 - self._light)
        return self._served(weights, share * weights)

    def heavy(self, weights: Floats) -> float:
        return self._served(weights, weights)

    def value(self, policy: str, weights: Floats, budget: float, direct: float = 0.0) -> float:
        """q2 of a policy that spends ``budget`` heavy images a prompt."""
        if policy == "prompt rule":
            share = (budget - self._light) / (1 - self._light)
            return self._served(weights, self._hardest.top(weights, share))
        if policy == "cascade":
            direct = 0.0
        left = budget - direct - (1 - direct) * (self._light + JUDGING)
        if left < 0:
            return -1.0
        straight = self._hardest.top(weights, direct)
        escalated = self._doubtful.top(weights - straight, min(1.0, left / (1 - direct)))
        return self._served(weights, straight + escalated)

    def _served(self, weights: Floats, share: Floats) -> float:
        return float((weights @ self._images.light + share @ (self._images.heavy - self._images.light)) / weights.sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=600, help="held-out prompts, and as many to choose shares on")
    parser.add_argument("--seeds", type=int, default=2, help="images per held-out prompt and variant")
    parser.add_argument("--cache", type=Path, help="keep the judged images here, and use them when they are there")
    parser.add_argument("--output", type=Path, default=DOCUMENTS, help="folder of science.md and its figures")
    options = parser.parse_args()
    from bench import science_page

    fitting, judged = measured(options.prompts, options.seeds, options.cache)
    comparisons = [compare(fitting, judged, ratio) for ratio in RATIOS]
    science_page.write(options.output, judged, comparisons, mixings(fitting, judged), seeds=options.seeds)
    found = targets(judged, comparisons[0])
    for line, held in found:
        print(f"{'met   ' if held else 'MISSED'} {line}")
    return 0 if all(held for _, held in found) else 1


def measured(prompts: int, seeds: int, cache: Path | None) -> tuple[Images, Images]:
    """Judged images of the prompts that shares are chosen on, and of the held-out ones."""
    if cache is not None and cache.exists():
        with np.load(cache) as held:
            return tuple(Images(**{f.name: held[f"{part} {f.name}"] for f in fields(Images)}) for part in ("a", "b"))  # type: ignore[return-value]
    rng = np.random.default_rng(FITTING_SEED)
    chosen_on = [grammar.sample_scene(rng, 1 + at % grammar.MAX_OBJECTS, "train") for at in range(prompts)]
    rng = np.random.default_rng(HELDOUT_SEED)
    splits: tuple[grammar.Split, grammar.Split] = ("heldout", "test")
    heldout = [grammar.sample_scene(rng, 1 + at % 4, splits[(at // 4) % 2]) for at in range(prompts)]
    found = draw(chosen_on, 1, FITTING_SEED, "fitting"), draw(heldout, seeds, HELDOUT_SEED, "held-out")
    if cache is not None:
        parts = zip(("a", "b"), found, strict=True)
        np.savez(cache, **{f"{name} {f.name}": getattr(part, f.name) for name, part in parts for f in fields(Images)})
    return found


def draw(scenes: Sequence[grammar.Scene], seeds: int, seed: int, name: str) -> Images:
    """Images of both variants, ``seeds`` of every scene, as a replica makes and judges them."""
    repeated = [scene for scene in scenes for _ in range(seeds)]
    prompts = [grammar.describe(scene) for scene in repeated]
    judge = discriminators.load(discriminators.BUILTIN)
    scorer = make_scorer("rules", None)
    networks = {
        kind: engines.load("onnxruntime", assets.path(kind), ("x", "t", "tokens")) for kind in ("light", "heavy")
    }
    scores: dict[str, list[tuple[float, float]]] = {"light": [], "heavy": []}
    confidence: list[npt.NDArray[np.float32]] = []
    said = time.monotonic()
    for start in range(0, len(repeated), CHUNK):
        part = repeated[start : start + CHUNK]
        words = tokens.encode_all(part)
        numbers = [seed * 10**6 + start + at for at in range(len(part))]
        for kind, network in networks.items():
            how = assets.metadata().variants[kind]
            images = sampling.generate(network, words, numbers, kind=how.kind, steps=how.steps, guidance=how.guidance)
            checked = [checker.check(image, scene) for image, scene in zip(images, part, strict=True)]
            scores[kind] += [(one.q2, one.strict) for one in checked]
            if kind == "light":
                confidence.append(judge.confidence(images, prompts[start : start + CHUNK]))
        if time.monotonic() - said > 5:
            said = time.monotonic()
            sys.stderr.write(f"{name}: {start + len(part)} of {len(repeated)} images of each variant\n")
    (light, light_strict), (heavy, heavy_strict) = (np.array(scores[kind]).T for kind in ("light", "heavy"))
    return Images(
        prompt=np.repeat(np.arange(len(scenes)), seeds),
        objects=np.array([len(scene.objects) for scene in repeated]),
        heldout=np.array([grammar.split_of(scene) == "heldout" for scene in repeated]),
        hardness=np.array([scorer.score(prompt, draw=0.5) for prompt in prompts], dtype=np.float64),
        confidence=np.concatenate(confidence).astype(np.float64),
        light=light,
        heavy=heavy,
        light_strict=light_strict,
        heavy_strict=heavy_strict,
    )


def resamples(images: Images, count: int = DRAWS) -> list[Floats]:
    """Weights of the images when prompts are drawn again; all images of a prompt come together."""
    rng = np.random.default_rng(0)
    prompts = int(images.prompt.max()) + 1
    return [
        np.bincount(rng.integers(0, prompts, prompts), minlength=prompts).astype(np.float64)[images.prompt]
        for _ in range(count)
    ]


def compare(fitting: Images, judged: Images, ratio: int) -> Comparison:
    """Every policy at every budget, at one price of a light image."""
    trial, policies = Policies(fitting, ratio), Policies(judged, ratio)
    even = np.ones(len(fitting.light))
    once, draws = np.ones(len(judged.light)), resamples(judged)
    direct, random = {}, {}
    cells: dict[tuple[str, float], Cell] = {}
    for budget in sorted({*BUDGETS, *CURVE}):
        direct[budget] = max(DIRECT, key=lambda share, b=budget: trial.value("hybrid", even, b, share))  # type: ignore[misc]
        random[budget] = policies.random(once, budget)
        some = draws if budget in BUDGETS else draws[:100]
        values = {
            policy: [policies.value(policy, weights, budget, direct[budget]) for weights in (once, *some)]
            for policy in POLICIES
        }
        base = [policies.random(weights, budget) for weights in (once, *some)]
        top = [policies.heavy(weights) for weights in (once, *some)]
        for policy, found in values.items():
            gains = [value - low for value, low in zip(found, base, strict=True)]
            closed = [gain / (high - low) for gain, high, low in zip(gains, top, base, strict=True)]
            cells[policy, budget] = Cell(*(Figure.of(series[0], series[1:]) for series in (found, closed, gains)))
    return Comparison(ratio, random, cells, direct)


def mixings(fitting: Images, judged: Images) -> list[Mixing]:
    """Where both together are worth more than one of them: by price of a light image, and by what is seen in it."""
    rng = np.random.default_rng(5)
    found = []
    draws = [np.ones(len(judged.light)), *resamples(judged, DRAWS // 4)]
    for blur in BLURS:
        trial, seen = (blurred(images, blur, rng) for images in (fitting, judged))
        for ratio in MIXED_RATIOS:
            chosen_on, policies = Policies(trial, ratio), Policies(seen, ratio)
            once = np.ones(len(trial.light))
            direct, better = (
                max(DIRECT, key=lambda share, on=chosen_on: on.value("hybrid", once, MIXED_BUDGET, share)),  # type: ignore[misc]
                max(POLICIES[:2], key=lambda policy, on=chosen_on: on.value(policy, once, MIXED_BUDGET)),  # type: ignore[misc]
            )
            ahead = [
                policies.value("hybrid", weights, MIXED_BUDGET, direct) - policies.value(better, weights, MIXED_BUDGET)
                for weights in draws
            ]
            sees = judging.auc(seen.confidence, seen.light_strict)
            found.append(Mixing(sees, ratio, direct, better, Figure.of(ahead[0], ahead[1:])))
    return found


def blurred(images: Images, blur: float, rng: np.random.Generator) -> Images:
    """The same images with noise on the discriminator's logits."""
    chance = np.clip(images.confidence, 1e-6, 1 - 1e-6)
    logits = np.log(chance / (1 - chance)) + blur * rng.standard_normal(len(chance))
    return replace(images, confidence=1 / (1 + np.exp(-logits)))


def auc(scores: Floats, labels: Floats, images: Images) -> Figure:
    """With an interval over prompts."""
    rng = np.random.default_rng(1)
    groups = [np.flatnonzero(images.prompt == prompt) for prompt in range(int(images.prompt.max()) + 1)]
    draws = []
    for _ in range(DRAWS // 2):
        chosen = np.concatenate([groups[at] for at in rng.integers(0, len(groups), len(groups))])
        draws.append(judging.auc(scores[chosen], labels[chosen]))
    return Figure.of(judging.auc(scores, labels), draws)


def targets(judged: Images, comparison: Comparison) -> list[tuple[str, bool]]:
    """What the testbed is to show at the fixed price, and whether it does."""
    found = []
    for budget, share in TARGETS.items():
        closed = comparison.cells["hybrid", budget].closed
        where = f"at {budget:.0%} compute (1:{comparison.ratio})"
        line = f"{where} the hybrid closes {closed.percent()} of the gap, >= {share:.0%}"
        found.append((line, closed.value >= share and closed.low > 0))
    right = auc(judged.confidence, judged.light_strict, judged)
    error = judging.reliability(judged.confidence, judged.light_strict)[1]
    found.append(
        (f"AUC of the confidence for strictly right light images {right.text()}, >= 0.85", right.value >= 0.85)
    )
    found.append((f"expected calibration error {error:.3f}, <= 0.05", error <= 0.05))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
