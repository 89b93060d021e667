"""Evaluates series of timings: whether there are enough of them, and their percentiles. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

LEAST: Final = 15
"""The fewest timings for a median."""
MOST: Final = 400
"""The most timings of a series."""
WIDTH: Final = 0.02
"""There are enough timings if the median's 95 % interval is no wider than this share of the median."""


@dataclass(frozen=True)
class Percentiles:
    """The median, 95th and 99th percentile of a series, in whole microseconds; at least 1, and in rising order.

    With fewer than a hundred timings, the 99th percentile is close to the longest timing and only a rough figure.
    """

    p50_micros: int
    p95_micros: int
    p99_micros: int
    count: int


def enough(timings_s: Sequence[float]) -> bool:
    """Whether the median is known well enough, or there are so many timings that more would not help."""
    if len(timings_s) < LEAST:
        return False
    low, high = median_interval(timings_s)
    return len(timings_s) >= MOST or high - low <= WIDTH * float(np.median(timings_s))


def median_interval(timings_s: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median from order statistics, which assumes no distribution of the timings."""
    ordered = sorted(timings_s)
    reach = 0.98 * math.sqrt(len(ordered))
    middle = len(ordered) / 2
    return ordered[max(0, math.floor(middle - reach))], ordered[min(len(ordered) - 1, math.ceil(middle + reach))]


def timing(timings_s: Sequence[float]) -> Percentiles:
    """The percentiles of a series."""
    p50, p95, p99 = (max(1, round(1e6 * float(value))) for value in np.quantile(timings_s, (0.5, 0.95, 0.99)))
    return Percentiles(p50, max(p50, p95), max(p50, p95, p99), len(timings_s))


def difference(longer: Percentiles, shorter: Percentiles) -> Percentiles:
    """The differences between the percentiles of two series."""
    p50 = max(1, longer.p50_micros - shorter.p50_micros)
    p95 = max(p50, longer.p95_micros - shorter.p95_micros)
    p99 = max(p95, longer.p99_micros - shorter.p99_micros)
    return Percentiles(p50, p95, p99, min(longer.count, shorter.count))
