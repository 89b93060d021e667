"""Quantiles of values in rising order, where there is no numpy or a call of it would cost more than it does (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def interpolated(rising: Sequence[float], level: float) -> float:
    """The quantile at ``level`` (0 to 1), between neighbours by straight line."""
    place = level * (len(rising) - 1)
    below = int(place)
    if below + 1 >= len(rising):
        return rising[-1]
    return rising[below] + (place - below) * (rising[below + 1] - rising[below])


def nearest_rank(rising: Sequence[float], level: float) -> float | None:
    """The smallest value that at least ``level`` of all values do not exceed; None where there are none."""
    return rising[max(0, math.ceil(level * len(rising)) - 1)] if rising else None
