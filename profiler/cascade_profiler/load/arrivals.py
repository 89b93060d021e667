"""When requests arrive, whatever becomes of them (pure)."""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson(*, rate: float, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Arrivals of a Poisson process of ``rate`` per second, in seconds from the start, rising, below the duration."""
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        if at >= duration_s:
            return
        yield at
