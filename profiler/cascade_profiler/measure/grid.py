"""Computes the quality of a chain for a grid of shares (r, d), from one image per variant and prompt. Pure.

Each cell is the mean, over all prompts, of the image that would be the answer. If a threshold falls among equal scores,
or inside one prompt, these prompts count in part on either side: that is the expectation over a router's random draws.
Standard errors are by bootstrap: the prompts are resampled, and the thresholds are computed anew for each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cascade_api.profile import QualityRow

from .frechet import Moments, distance, products

Floats = npt.NDArray[np.float64]

PERCENTS: Final = range(0, 101, 10)
QUANTILE_LEVELS: Final = np.linspace(0.0, 1.0, 21)
DRAWS: Final = 100
"""Number of resamples for the standard errors of means, which are then known to 7 %."""
DISTANCE_DRAWS: Final = 40
"""Number of resamples for those of distances, which take longer to compute; they are then known to 11 %."""

Cell = tuple[int, int]
"""(r, d) in percent."""

CELLS: Final[tuple[Cell, ...]] = tuple((direct, escalation) for direct in PERCENTS for escalation in PERCENTS)


@dataclass(frozen=True)
class Side:
    """One variant's measured images of N prompts: values ``[N]`` by mean metric, features ``[N, K]`` by distance."""

    values: Mapping[str, Floats]
    features: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredChain:
    """Two variants' images of the same N prompts, the scores that route the prompts, and features of true images."""

    light: Side
    heavy: Side
    hardness: Floats
    confidence: Floats
    reference: Mapping[str, Floats] = field(default_factory=dict)

    def only(self, metric: str) -> MeasuredChain:
        """The same chain with one metric, which is a mean over images."""
        light, heavy = (Side({metric: side.values[metric]}) for side in (self.light, self.heavy))
        return MeasuredChain(light, heavy, self.hardness, self.confidence)


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float


class Ranking:
    """Prompts in the order of a score, the greatest first, of which it selects the top share for any weighting."""

    def __init__(self, scores: Floats) -> None:
        values, self._group = np.unique(-scores, return_inverse=True)
        self._groups = len(values)

    def top(self, weights: Floats, share: float) -> Floats:
        """The part of each prompt's weight that is in the top ``share``: all of it above the cut, none below.

        Prompts with equal scores at the cut are in it with the same part of their weight.
        """
        wanted = share * weights.sum()
        group_weights = np.bincount(self._group, weights=weights, minlength=self._groups)
        before = np.concatenate(([0.0], np.cumsum(group_weights)[:-1]))
        taken = np.clip(wanted - before, 0.0, group_weights)
        part = np.divide(taken, group_weights, out=np.zeros_like(taken), where=group_weights > 0)
        belonging: Floats = weights * part[self._group]
        return belonging


def top_share(scores: Floats, weights: Floats, share: float) -> Floats:
    """`Ranking.top` for scores that are used only once."""
    return Ranking(scores).top(weights, share)


def estimates(chain: MeasuredChain, *, seed: int = 0) -> dict[Cell, dict[str, Estimate]]:
    """Every metric of every cell of the 11 x 11 grid, with standard errors over prompts."""
    prompts = len(chain.hardness)
    rng = np.random.default_rng(seed)
    judge = _Judge(chain)
    exact = judge.values(np.ones(prompts), distances=True)
    resampled: dict[str, list[Floats]] = {name: [] for name in exact}
    for draw in range(DRAWS):
        weights = np.bincount(rng.integers(0, prompts, prompts), minlength=prompts).astype(np.float64)
        for name, values in judge.values(weights, distances=draw < DISTANCE_DRAWS).items():
            resampled[name].append(values)
    errors = {name: np.std(values, axis=0, ddof=1) for name, values in resampled.items()}
    return {
        cell: {name: Estimate(float(values[at]), float(errors[name][at])) for name, values in exact.items()}
        for at, cell in enumerate(CELLS)
    }


def alone_row(name: str, side: Side, reference: Mapping[str, Floats]) -> QualityRow:
    """The row of a chain of one variant."""
    # Both sides of this chain have the same images, so that the shares make no difference.
    even = np.zeros(len(next(iter({**side.values, **side.features}.values()))))
    found = estimates(MeasuredChain(side, side, even, even, reference))[0, 0]
    return QualityRow(chain=(name,), **_milli(found))


def quality_rows(light: str, heavy: str, found: Mapping[Cell, Mapping[str, Estimate]]) -> list[QualityRow]:
    """The rows of a chain in a profile."""
    return [
        QualityRow(
            chain=(light, heavy),
            direct_percent=direct,
            escalation_percent=escalation,
            **_milli(values),
        )
        for (direct, escalation), values in found.items()
    ]


def _milli(values: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        "values_milli": {name: round(1000 * one.value) for name, one in values.items()},
        "errors_milli": {name: round(1000 * one.error) for name, one in values.items()},
    }


def quantiles_milli(scores: Floats) -> list[int]:
    """The quantiles 0 %, 5 %, …, 100 % of scores, in thousandths."""
    return [round(1000 * float(value)) for value in np.quantile(scores, QUANTILE_LEVELS)]


class _Judge:
    """Computes every metric in all cells of a chain, for any weighting of its prompts."""

    def __init__(self, chain: MeasuredChain) -> None:
        self._chain = chain
        self._hardest, self._doubtful = Ranking(chain.hardness), Ranking(-chain.confidence)
        # Distances do not depend on the origin. Centred features keep the sums of products precise.
        centres = {name: true.mean(axis=0) for name, true in chain.reference.items()}
        self._true = {name: products(true - centres[name]) for name, true in chain.reference.items()}
        self._light, self._heavy = (
            {name: products(side.features[name] - centre) for name, centre in centres.items()}
            for side in (chain.light, chain.heavy)
        )

    def values(self, weights: Floats, *, distances: bool) -> dict[str, Floats]:
        """Values ``[121]`` by metric, in the order of `CELLS`."""
        shares, total = self._shares(weights), float(weights.sum())
        light, heavy = self._chain.light.values, self._chain.heavy.values
        found = {name: _mixed(shares, weights, light[name], heavy[name]) / total for name in light}
        if distances:
            for name, true in self._true.items():
                # If the true images are of the same prompts, they are resampled with them; others are not.
                counted = weights if len(true) == len(weights) else np.ones(len(true))
                sums = _mixed(shares, weights, self._light[name], self._heavy[name])
                moments = Moments.of_sums(counted @ true, float(counted.sum()))
                found[name] = distance(Moments.of_sums(sums, total), moments)
        return found

    def _shares(self, weights: Floats) -> Floats:
        """``[121, N]``: by cell, the part of each prompt's weight for which the heavy image is the answer."""
        rows = []
        for direct in PERCENTS:
            straight = self._hardest.top(weights, direct / 100)
            rows += [straight + self._doubtful.top(weights - straight, percent / 100) for percent in PERCENTS]
        return np.stack(rows)


def _mixed(shares: Floats, weights: Floats, light: Floats, heavy: Floats) -> Floats:
    """Sums over prompts of the light or heavy value, by the shares of the heavy one."""
    mixed: Floats = weights @ light + shares @ (heavy - light)
    return mixed
