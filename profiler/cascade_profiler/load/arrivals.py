"""Arrival times of requests, which do not depend on the answers. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson(*, rate: float, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Rising arrival times, in seconds from the start, of a Poisson process of ``rate`` per second."""
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        if at >= duration_s:
            return
        yield at
