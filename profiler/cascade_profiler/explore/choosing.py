"""Decides which settings to drop and which to keep, by what the frontier loses without them. Pure.

Settings are dropped one at a time, and all is computed anew each time, because of two settings that are much alike only
one can be spared.

While a search goes on (`narrow`), what counts is the gain of a setting: the most, over all prices, by which a row with
it may be above the frontier of the other settings. It is taken at the upper end of its confidence interval. A setting
is dropped if it is not worth more than `TOLERANCE` even there, or if more settings are left than the next round has
images for. In the latter case the images may not tell yet which of several settings gains least, because all images of
few prompts are good. Of these, the first to go is one that has another setting at nearly the same price.

At the end (`settle`), the estimates themselves count, and losses add up: the setting is dropped without which the
frontier of what is left is nearest to the frontier of all. A loss counts for more where the frontier is near its best
value, since there it is a larger part of the errors that are left: it is divided by the distance to the best value,
plus `NEAR`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ..measure.grid import Floats
from .frontier import Hull
from .rows import Evidence, Mask, Rows

TOLERANCE: Final = 0.0003
"""A gain that is not worth a variant, as a share of the span from the worst setting to the best row."""
CAUTION: Final = 2.0
"""Standard errors from an estimate to the upper end of its interval."""

EQUAL: Final = 0.2
"""Gains are taken for equal if they differ by no more than this part of what one prompt can make."""
NEAR: Final = 0.005
"""A distance to the best value that is small, as a share of the same span."""

Why = Literal["no gain", "least gain"]


@dataclass(frozen=True)
class Scale:
    """The scale of the objective metric, from the images of all settings.

    Attributes:
        floor: what a refused prompt counts: the mean of the worst setting.
        spread: the greatest difference between two images.
    """

    floor: float
    spread: float

    @classmethod
    def of(cls, evidence: Evidence) -> Scale:
        """The scale from what is known of all settings."""
        return cls(float(evidence.values.mean(axis=1).min()), float(np.ptp(evidence.values)))


@dataclass(frozen=True)
class Dropped:
    """A setting that was dropped after ``prompts`` prompts: its seconds and mean, what the frontier may lose, and why.

    ``no gain``: that is no more than the tolerance. ``least gain``: there were too many settings, and without this one
    the frontier loses least.
    """

    name: str
    prompts: int
    seconds: float
    mean: float
    loss: float
    why: Why


@dataclass(frozen=True)
class Choice:
    """The settings that stay, in their order, and those that were dropped, in the order in which they were."""

    kept: tuple[str, ...]
    dropped: tuple[Dropped, ...]


def narrow(evidence: Evidence, scale: Scale, *, most: int) -> Choice:
    """Drop settings until at most ``most`` are left and each of them may be worth more images."""
    rows = Rows(evidence)
    equal = EQUAL * scale.spread / (evidence.prompts + 1)

    def least(kept: Mask) -> tuple[int, float]:
        gains = {at: _upper_gain(rows, at, kept, scale) for at in _settings(kept)}
        lowest = min(gains.values())
        at = _most_alike(evidence, [at for at, gain in gains.items() if gain <= lowest + equal], kept)
        return at, gains[at]

    return _dropping(rows, least, scale, most=most)


def settle(evidence: Evidence, scale: Scale, *, most: int) -> Choice:
    """Drop settings until at most ``most`` are left and the frontier would lose by dropping another one."""
    rows = Rows(evidence)
    everything = Hull(rows, np.ones(len(rows.means), dtype=bool), scale.floor)
    best = float(rows.means.max())
    distances = np.maximum(best - everything.means + NEAR * (best - scale.floor), np.finfo(np.float64).tiny)

    def least(kept: Mask) -> tuple[int, float]:
        losses = {at: _losses(rows, at, kept, everything) for at in _settings(kept)}
        shares = {at: loss / distances for at, loss in losses.items()}
        at = min(shares, key=lambda at: (round(float(shares[at].max()), 12), float(shares[at].mean()), -at))
        return at, float(losses[at].max())

    return _dropping(rows, least, scale, most=most)


def gains(evidence: Evidence, scale: Scale) -> Mapping[str, float]:
    """By setting: what the frontier loses without it, at the price where that is most."""
    rows = Rows(evidence)
    everyone = np.ones(len(evidence.names), dtype=bool)
    hull = Hull(rows, rows.of(everyone), scale.floor)
    return {name: float(_losses(rows, at, everyone, hull).max()) for at, name in enumerate(evidence.names)}


def _dropping(rows: Rows, least: Callable[[Mask], tuple[int, float]], scale: Scale, *, most: int) -> Choice:
    evidence = rows.evidence
    tolerance = TOLERANCE * (float(rows.means.max()) - scale.floor)
    kept = np.ones(len(evidence.names), dtype=bool)
    dropped: list[Dropped] = []
    while kept.sum() > 1:
        at, loss = least(kept)
        if loss > tolerance and kept.sum() <= most:
            break
        why: Why = "no gain" if loss <= tolerance else "least gain"
        seconds, mean = float(evidence.seconds[at]), float(evidence.values[at].mean())
        dropped.append(Dropped(evidence.names[at], evidence.prompts, seconds, mean, loss, why))
        kept[at] = False
    return Choice(tuple(evidence.names[at] for at in _settings(kept)), tuple(dropped))


def _settings(kept: Mask) -> Iterator[int]:
    return (int(at) for at in np.flatnonzero(kept))


def _losses(rows: Rows, setting: int, kept: Mask, everything: Hull) -> Floats:
    """By how much the frontier of the kept settings without one is below that of all, at each corner of the latter.

    Between its corners, the frontier of all is straight and the other one is concave, so the most is at a corner.
    """
    without = kept.copy()
    without[setting] = False
    found: Floats = everything.means - Hull(rows, rows.of(without), everything.floor).at(everything.seconds)
    return found


def _upper_gain(rows: Rows, setting: int, kept: Mask, scale: Scale) -> float:
    """The upper end of the interval of a setting's gain."""
    among = rows.of(kept)
    has = (rows.light == setting) | (rows.heavy == setting)
    others = Hull(rows, among & ~has, scale.floor)
    own = np.flatnonzero(among & has)
    differences = rows.outcomes(own) - others.outcomes(rows.seconds[own])
    means = differences.mean(axis=1)
    deviations = np.square(differences - means[:, None]).sum(axis=1)
    # As if one more prompt had shown the greatest difference that there can be: settings whose images of a few prompts
    # are all equally good may still differ (compare the rule of three).
    errors = np.sqrt(deviations + scale.spread**2) / (rows.evidence.prompts + 1)
    return float((means + CAUTION * errors).max())


def _most_alike(evidence: Evidence, settings: Sequence[int], kept: Mask) -> int:
    """Of some settings, the one that is nearest in price to another one that is kept.

    Of two that are as near, it is the one whose images are worse, or else the dearer one.
    """
    prices, means = np.log(evidence.seconds), evidence.values.mean(axis=1)

    def order(at: int) -> tuple[float, float, float, int]:
        nearest = min((abs(float(prices[at] - prices[other])) for other in _settings(kept) if other != at), default=0.0)
        return nearest, float(means[at]), -float(prices[at]), -at

    return min(settings, key=order)
