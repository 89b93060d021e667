"""Quantiles of sorted values, for code that has no numpy or where a call of numpy would cost too much. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def interpolated(rising: Sequence[float], level: float) -> float:
    """The quantile at ``level`` (0 to 1), interpolated linearly between neighbours."""
    place = level * (len(rising) - 1)
    below = int(place)
    if below + 1 >= len(rising):
        return rising[-1]
    return rising[below] + (place - below) * (rising[below + 1] - rising[below])


def nearest_rank(rising: Sequence[float], level: float) -> float | None:
    """The smallest value that at least the share ``level`` of all values does not exceed; None without values."""
    return rising[max(0, math.ceil(level * len(rising)) - 1)] if rising else None
