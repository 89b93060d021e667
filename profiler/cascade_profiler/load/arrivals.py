"""Arrival times and sizes of requests, which do not depend on the answers. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping


def poisson(*, rate: float, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Rising arrival times, in seconds from the start, of a Poisson process of ``rate`` per second."""
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        if at >= duration_s:
            return
        yield at


def sizes(parts: Mapping[str, float], *, rng: random.Random) -> Iterator[str]:
    """The size of each request, drawn in these parts; empty, the default, where there are none."""
    names, weights = list(parts) or [""], list(parts.values()) or [1.0]
    while True:
        yield from rng.choices(names, weights)
