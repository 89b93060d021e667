"""Measures confidences: their ranking (AUC) and calibration (reliability), and calibrates with two numbers (Platt)."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images with a confidence between two edges: their number, mean confidence, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


def auc(scores: Doubles, labels: Doubles) -> float:
    """The probability that a positive has a higher score than a negative; ties count half. NaN without both kinds."""
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")
    return float(below.mean() / (2 * len(negative)))


def auc_within(scores: Doubles, labels: Doubles, groups: npt.NDArray[np.int64]) -> float:
    """The AUC over pairs within the same group; groups count by their number of pairs."""
    total, weights = 0.0, 0.0
    for group in np.unique(groups):
        chosen = groups == group
        pairs = float((labels[chosen] > 0.5).sum() * (labels[chosen] <= 0.5).sum())
        if pairs:
            total += pairs * auc(scores[chosen], labels[chosen])
            weights += pairs
    return total / weights if weights else float("nan")


def reliability(confidence: Doubles, labels: Doubles, bins: int = 10) -> tuple[list[Bin], float]:
    """The bins of equal width that have images, and the expected calibration error."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [
        Bin(
            float(which) / bins,
            float(which + 1) / bins,
            int((index == which).sum()),
            float(confidence[index == which].mean()),
            float(labels[index == which].mean()),
        )
        for which in np.unique(index)
    ]
    return rows, sum(row.count * abs(row.confidence - row.right) for row in rows) / len(labels)


def platt(logits: Doubles, labels: Doubles) -> tuple[float, float]:
    """The scale and offset that turn logits into calibrated probabilities (Platt, 1999); labels may be shares.

    The scale is never negative. If the logits do not help to predict the labels, it is 0, and the offset gives the base
    rate.
    """
    positives = labels.sum()
    negatives = len(labels) - positives
    # Platt's targets keep the fit finite if the classes can be separated perfectly.
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    target = low + (high - low) * labels
    # Large logits saturate the sigmoid, so Newton's method works on scaled logits, and only takes steps that improve.
    spread = max(float(logits.std()), 1e-12)
    design = np.stack((logits / spread, np.ones_like(logits)), axis=1)

    def loss(weights: Doubles) -> float:
        margins = design @ weights
        return float((np.logaddexp(0, margins) - target * margins).sum() + 1e-6 * weights @ weights)

    weights = np.array([0.0, np.log(target.mean() / (1 - target.mean()))])
    for _ in range(50):
        chance = 0.5 * (1 + np.tanh(design @ weights / 2))
        gradient = design.T @ (chance - target) + 2e-6 * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + 2e-6 * np.eye(2)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
    weights[0] /= spread
    if weights[0] <= 0:
        return 0.0, float(np.log(target.mean() / (1 - target.mean())))
    return float(weights[0]), float(weights[1])


def bootstrap(
    confidence: Doubles, labels: Doubles, *, draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """95 % intervals of ``auc`` and ``ece``, by bootstrap over images."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        chosen = rng.integers(0, len(labels), len(labels))
        found.append((auc(confidence[chosen], labels[chosen]), reliability(confidence[chosen], labels[chosen])[1]))
    low, high = np.nanquantile(np.array(found), (0.025, 0.975), axis=0)
    return {"auc": (float(low[0]), float(high[0])), "ece": (float(low[1]), float(high[1]))}
