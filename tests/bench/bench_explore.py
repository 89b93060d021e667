"""Exploring the built-in models beside a full grid, and what it finds beside other ways of routing, at equal compute.

Draws images of every setting for the prompts by which settings are chosen (the full grid), and lets a search see a part
of them, as `cascade explore` would. What is found is then drawn for other prompts, and so are the best single settings
of the full grid. Compute is told in images of the heavy weights at 24 guided steps, by passes through the network.
Intervals are 95 % bootstrap intervals over prompts, paired. Writes docs/benchmarks/explore.md and its figure.

With `--heldout 0` no other prompts are drawn: everything is chosen on a random half of the prompts and reported on the
other half, for `SPLITS` splits, and intervals are those of the results of single splits. That takes less time.

    cd tests && python -m bench.bench_explore [--heldout 10] [--processes 2] [--cache DIR] [--seconds S]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.explore_images import Gallery, compute, space
from cascade_models.manifest import ManifestVariant
from cascade_profiler.explore import comparing, rounds
from cascade_profiler.explore.comparing import BEST_SINGLE, BUDGETS, Compared
from cascade_profiler.explore.frontier import Mixture
from cascade_profiler.explore.rounds import Round
from cascade_profiler.explore.rows import Evidence
from cascade_profiler.explore.searching import Budget, Found, search
from cascade_router.prompts.scorers import make_scorer

BLOCK = 2000
"""Prompts by which settings are chosen; and prompts, by tens of which what was found is reported."""
CHOOSING, CHOOSING_SEED, HELDOUT_SEED = BLOCK, 51, 52
MOST: Final = 8
JUDGING = 0.0125
"""A judgement, in images of the heavy weights at 24 guided steps, as on the page about the cascade's worth."""
PART = 0.2
"""The images of a search, as a share of the full grid's."""
SPLITS = 12
ORDERS = 4
"""Further searches, each with the prompts in another order."""
STUDY: Final = {0.10: 0.981, 0.15: 0.992, 0.20: 0.995, 0.30: 0.997, 0.50: 0.998}
"""q2 of the best chains of an earlier study with 14 settings, which what is found should reach."""
FEWER_ERRORS: Final = {0.10: 0.7, 0.20: 0.7, 0.30: 0.7}
"""By budget: the share of the best single setting's errors that the chains may leave."""
NEAR_GRID = 0.002
LONGEST_S = 900.0
FULL, FOUND = "full grid", "hybrid"
CACHE = Path("/tmp/cascade-explore-images")  # noqa: S108
DOCUMENTS = Path(__file__).parents[2] / "docs" / "benchmarks"


@dataclass(frozen=True)
class Outcome:
    """What the benchmark measured.

    Attributes:
        tried: how many settings there are.
        found: by the search.
        compared: by way of routing and budget, on held-out prompts; `FULL` is the hybrid of the full grid.
        orders: by order of the prompts and budget, how far the frontier is below that of the full grid, on the prompts
            that chose.
        prompts: how many held-out prompts there are; 0: everything is the mean of `SPLITS` splits in halves.
        part: the images of the search as a share of the full grid's.
        seconds: how long `cascade explore` took for the same on this machine, if that was measured.
    """

    tried: Sequence[ManifestVariant]
    found: Found
    compared: Mapping[tuple[str, float], Compared]
    orders: Sequence[Mapping[float, float]]
    prompts: int
    part: float
    seconds: float | None

    def single(self, budget: float) -> float:
        """The mean of the best single setting."""
        return self.compared[BEST_SINGLE, budget].mean

    def errors_left(self, system: str, budget: float) -> tuple[float, float, float]:
        """The errors that a way of routing leaves, as a share of the best single setting's, with the interval."""
        ours, single = self.compared[system, budget], self.compared[BEST_SINGLE, budget]
        ratios = (1 - ours.resampled) / np.maximum(1 - single.resampled, 1e-9)
        low, high = np.quantile(ratios, comparing.INTERVAL)
        return (1 - ours.mean) / (1 - single.mean), float(low), float(high)

    def below_grid(self, budget: float) -> tuple[float, float, float]:
        """By how much what was found is below the full grid, with the interval."""
        full, ours = self.compared[FULL, budget], self.compared[FOUND, budget]
        low, high = np.quantile(full.resampled - ours.resampled, comparing.INTERVAL)
        return full.mean - ours.mean, float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heldout", type=int, default=10, help=f"times {BLOCK} prompts for the report; 0: splits")
    parser.add_argument("--processes", type=int, default=2, help="processes that draw images")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder in which what is known of images is kept")
    parser.add_argument("--seconds", type=float, help="what `cascade explore` took with its defaults, if measured")
    parser.add_argument("--output", type=Path, default=DOCUMENTS, help="folder of explore.md and its figure")
    options = parser.parse_args()
    from bench import explore_page

    outcome = measured(options.heldout, options.cache, options.processes, options.seconds)
    explore_page.write(options.output, outcome)
    found = targets(outcome)
    for line, held in found:
        print(f"{'met   ' if held else 'MISSED'} {line}")
    return 0 if all(held for _, held in found) else 1


def measured(heldout: int, cache: Path, processes: int, seconds: float | None) -> Outcome:
    """Draw what is missing, and search, compare and report."""
    tried = space()
    grid = Gallery(CHOOSING, CHOOSING_SEED, cache, processes=processes)
    grid.draw(tried)
    whole = evidence(grid, tried)
    found = explored(whole)
    scale = found.scale
    of_grid = comparing.choose(whole, BUDGETS, scale.floor)
    with ProcessPoolExecutor(processes) as pool:
        orders = list(pool.map(functools.partial(distances, whole, of_grid), range(ORDERS)))
        splits = [] if heldout else list(pool.map(functools.partial(split, whole), range(SPLITS)))
    part = found.images / (CHOOSING * len(tried))
    if not heldout:
        return Outcome(tried, found, averaged(splits), orders, 0, part, seconds)
    chosen = with_grid(found, of_grid)
    used = {name for mixture in chosen.values() for _, row in mixture.portions for name in (row.light, row.heavy)}
    shown = [one for one in tried if one.name in used]
    others = [Gallery(BLOCK, HELDOUT_SEED + at, cache, processes=processes) for at in range(heldout)]
    for other in others:
        other.draw(shown)
    compared = comparing.report(chosen, joined([evidence(other, shown) for other in others]), scale.floor)
    return Outcome(tried, found, compared, orders, heldout * BLOCK, part, seconds)


def with_grid(found: Found, of_grid: Mapping[tuple[str, float], Mixture]) -> dict[tuple[str, float], Mixture]:
    """What is served by way of routing and budget: what was found, but the best single setting is that of the grid."""
    chosen = comparing.choose(found.evidence, BUDGETS, found.scale.floor)
    for budget in BUDGETS:
        chosen[BEST_SINGLE, budget] = of_grid[BEST_SINGLE, budget]
        chosen[FULL, budget] = of_grid["hybrid", budget]
    return chosen


def split(whole: Evidence, seed: int) -> dict[tuple[str, float], tuple[Mixture, float]]:
    """Everything chosen on one half of the prompts: the rows, and their mean on the other half."""
    order = np.random.default_rng((seed, 1)).permutation(whole.prompts)
    chosen_on, other = (taken(whole, half) for half in np.array_split(order, 2))
    found = explored(chosen_on)
    chosen = with_grid(found, comparing.choose(chosen_on, BUDGETS, found.scale.floor))
    return {key: (mixture, mixture.mean(other, found.scale.floor)) for key, mixture in chosen.items()}


def averaged(
    splits: Sequence[Mapping[tuple[str, float], tuple[Mixture, float]]],
) -> dict[tuple[str, float], Compared]:
    """The means over splits, with the rows of the last one."""
    found = {}
    for key, (mixture, _) in splits[-1].items():
        means = np.array([one[key][1] for one in splits])
        found[key] = Compared(mixture, float(means.mean()), means)
    return found


def evidence(gallery: Gallery, variants: Sequence[ManifestVariant]) -> Evidence:
    """What is known of these settings from a gallery's images."""
    scorer = make_scorer("rules", None)
    seen = [gallery.seen(one.name) for one in variants]
    return Evidence(
        tuple(one.name for one in variants),
        np.array([compute(one) for one in variants]),
        JUDGING,
        np.stack([one.q2 for one in seen]),
        np.stack([one.confidence for one in seen]),
        np.array([scorer.score(prompt, draw=0.5) for prompt in gallery.workload.prompts]),
    )


def joined(parts: Sequence[Evidence]) -> Evidence:
    """What is known of the same settings from different prompts."""
    return replace(
        parts[0],
        values=np.concatenate([part.values for part in parts], axis=1),
        confidence=np.concatenate([part.confidence for part in parts], axis=1),
        hardness=np.concatenate([part.hardness for part in parts]),
    )


def explored(whole: Evidence) -> Found:
    """What a search finds that sees at most `PART` of the full grid's images."""

    def draw(names: Sequence[str], ahead: Sequence[Round]) -> Evidence:
        return taken(whole.of(names), np.arange(ahead[0].prompts))

    ones = [1.0] * len(whole.names)
    prompts = whole.prompts
    while images(rounds.plan(len(ones), prompts, most=MOST), ones) > PART * whole.prompts * len(ones):
        prompts -= rounds.GRAIN
    unlimited = Budget(dict.fromkeys(whole.names, 1.0), lambda _: float("inf"))
    return search(whole.names, draw, unlimited, prompts=prompts, most=MOST)


def images(planned: Sequence[Round], ones: Sequence[float]) -> float:
    """The most images that rounds take, without the report."""
    return rounds.price(planned, ones, most=MOST) - MOST * planned[-1].prompts


def distances(whole: Evidence, of_grid: Mapping[tuple[str, float], Mixture], seed: int) -> dict[float, float]:
    """How far a search with the prompts in another order is below the full grid, on all prompts that chose."""
    order = np.random.default_rng(seed).permutation(whole.prompts)
    found = explored(taken(whole, order))
    kept = whole.of(list(found.kept))
    ours = comparing.choose(kept, BUDGETS, found.scale.floor)
    return {
        budget: of_grid["hybrid", budget].mean(whole, found.scale.floor)
        - ours["hybrid", budget].mean(kept, found.scale.floor)
        for budget in BUDGETS
    }


def taken(known: Evidence, prompts: np.ndarray) -> Evidence:
    """What is known from some of the prompts, in this order."""
    return replace(
        known,
        values=known.values[:, prompts],
        confidence=known.confidence[:, prompts],
        hardness=known.hardness[prompts],
    )


def targets(outcome: Outcome) -> list[tuple[str, bool]]:
    """What exploring is to reach, and whether it does."""
    found = []
    for budget, wanted in STUDY.items():
        one = outcome.compared[FOUND, budget]
        low, high = one.interval
        line = f"at {budget:.0%} compute q2 {one.mean:.4f} ({low:.4f} to {high:.4f}), >= {wanted}"
        found.append((line, round(one.mean, 3) >= wanted))
    for budget, share in FEWER_ERRORS.items():
        left, low, high = outcome.errors_left(FOUND, budget)
        line = f"at {budget:.0%} compute {left:.0%} ({low:.0%} to {high:.0%}) of the best single setting's errors"
        found.append((f"{line}, <= {share:.0%}", left <= share and high < 1))
    for budget in BUDGETS:
        below, low, high = outcome.below_grid(budget)
        line = f"at {budget:.0%} compute {below:+.4f} ({low:+.4f} to {high:+.4f}) below the full grid"
        found.append((f"{line}, <= {NEAR_GRID}", below <= NEAR_GRID))
    found.append((f"a search draws {outcome.part:.1%} of the full grid's images, <= {PART:.0%}", outcome.part <= PART))
    if outcome.seconds is not None:
        line = f"`cascade explore` takes {outcome.seconds / 60:.1f} minutes, <= {LONGEST_S / 60:.0f}"
        found.append((line, outcome.seconds <= LONGEST_S))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
