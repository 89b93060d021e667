"""When a series of timings is long enough, and what it says (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

LEAST: Final = 15
"""Timings below which no median is trusted."""
MOST: Final = 400
WIDTH: Final = 0.02
"""Width of the median's 95 % interval, as a share of the median, at which there are enough."""


@dataclass(frozen=True)
class Percentiles:
    """Median, 95th and 99th percentile of a series, in whole microseconds of at least 1, none below the one before.

    Of fewer than a hundred timings the 99th percentile is close to the longest one: an indication.
    """

    p50_micros: int
    p95_micros: int
    p99_micros: int
    count: int


def enough(timings_s: Sequence[float]) -> bool:
    """Whether the median is known well enough, or there have been so many that more would not help."""
    if len(timings_s) < LEAST:
        return False
    low, high = median_interval(timings_s)
    return len(timings_s) >= MOST or high - low <= WIDTH * float(np.median(timings_s))


def median_interval(timings_s: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, by order statistics: no assumption on how the timings are distributed."""
    ordered = sorted(timings_s)
    reach = 0.98 * math.sqrt(len(ordered))
    middle = len(ordered) / 2
    return ordered[max(0, math.floor(middle - reach))], ordered[min(len(ordered) - 1, math.ceil(middle + reach))]


def timing(timings_s: Sequence[float]) -> Percentiles:
    """What a series says."""
    p50, p95, p99 = (max(1, round(1e6 * float(value))) for value in np.quantile(timings_s, (0.5, 0.95, 0.99)))
    return Percentiles(p50, max(p50, p95), max(p50, p95, p99), len(timings_s))


def difference(longer: Percentiles, shorter: Percentiles) -> Percentiles:
    """What the longer one has on top, by quantile."""
    p50 = max(1, longer.p50_micros - shorter.p50_micros)
    p95 = max(p50, longer.p95_micros - shorter.p95_micros)
    p99 = max(p95, longer.p99_micros - shorter.p99_micros)
    return Percentiles(p50, p95, p99, min(longer.count, shorter.count))
