"""Measures of how well scores order prompts: rank correlation, area under the curve, captured gain. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..measure.grid import top_share

Floats = npt.NDArray[np.float64]


def ranks(values: Floats) -> Floats:
    """The rank of each value, from 0; equal values get their mean rank."""
    ordered = np.sort(values)
    low = np.searchsorted(ordered, values, side="left")
    high = np.searchsorted(ordered, values, side="right") - 1
    return np.asarray((low + high) / 2, dtype=np.float64)


def rank_correlation(left: Floats, right: Floats) -> float:
    """Spearman's rank correlation; 0 if one side is constant."""
    a, b = ranks(left), ranks(right)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def area_under_curve(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """The probability that a positive has a higher score than a negative; ties count half. 0.5 if either is missing."""
    count = int(positive.sum())
    if count == 0 or count == len(scores):
        return 0.5
    total = float(ranks(scores)[positive].sum()) - count * (count - 1) / 2
    return total / (count * (len(scores) - count))


def captured(scores: Floats, gain: Floats, *, share: float) -> float:
    """How much of the possible gain is captured by picking the top ``share`` of prompts by ``scores``.

    0 is the gain of a random choice, and 1 that of the best choice.
    """
    even = np.ones_like(scores)

    def picked(order: Floats) -> float:
        return float((top_share(order, even, share) * gain).sum())

    chance = share * float(gain.sum())
    most = picked(gain) - chance
    return (picked(scores) - chance) / most if most > 0 else 0.0
