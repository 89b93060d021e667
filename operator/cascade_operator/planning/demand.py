"""How many requests per second to plan for: an arrival-rate forecast, fast up and slow down.

Counts come per whole second; a second that is absent had no arrivals, and so had the time before the oldest
count only if that lies before the window: after a restart the window begins with what is known. Queries that
wait are no demand: they are charged to the pool where they wait, as a rate that clears them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ..snapshot import Demand

LEAST_WINDOW_S = 4.0
LEAST_RECENT_S = 2.0
RECENT_PART = 0.25
"""The part of the window that may raise the forecast alone."""
SURGE_SIGMAS = 2.0
"""How far above the window's mean, in Poisson standard deviations, the recent part counts as a rise."""
STEADY_SIGMAS = 3.0
"""How far below the rate that pools were sized for, in the same measure, the rate must fall to size them anew."""
LEAST_SPAN_S = 2.0
FLUSH_LAG_S = 0.3
"""Routers report a second's arrivals up to a quarter second later."""


@dataclass(frozen=True)
class Forecast:
    """Requests per second, without margin, as of a time in Unix seconds."""

    rate: float
    at_s: float


class Forecaster(Protocol):
    """Turns counts and the last forecast into the next; pure."""

    def __call__(self, demand: Demand, *, now: float, window_s: float, last: Forecast | None) -> Forecast: ...


def fast_up_slow_down(demand: Demand, *, now: float, window_s: float, last: Forecast | None) -> Forecast:
    """The window's mean rate; at once the recent rate where that rose beyond chance.

    What the last forecast had above the mean is given up by halves, one every half window.
    """
    window_s = max(window_s, LEAST_WINDOW_S)
    mean = _rate(demand, now=now, seconds=window_s)
    recent_s = max(window_s * RECENT_PART, LEAST_RECENT_S)
    recent = _rate(demand, now=now, seconds=recent_s)
    rate = recent if recent > mean + SURGE_SIGMAS * math.sqrt(max(mean, 1 / recent_s) / recent_s) else mean
    if last is not None and last.rate > mean:
        elapsed = max(now - last.at_s, 0.0)
        rate = max(rate, mean + (last.rate - mean) * 0.5 ** (2 * elapsed / window_s))
    return Forecast(rate, now)


def moving_average(demand: Demand, *, now: float, window_s: float, last: Forecast | None) -> Forecast:
    """Baseline: the exponentially weighted moving average of the published systems, over the window."""
    rate = _rate(demand, now=now, seconds=LEAST_SPAN_S)
    if last is None:
        return Forecast(rate, now)
    kept = math.exp(-max(now - last.at_s, 0.0) / window_s)
    return Forecast(last.rate * kept + rate * (1 - kept), now)


def steady(rate: float, *, planned: float | None, window_s: float) -> float:
    """The rate to size pools for: the one planned for, as long as it is no less and above by chance alone.

    Pools are dearer to change than shares, so a rate that wavers within three Poisson deviations leaves them be.
    """
    if planned is None:
        return rate
    slack = STEADY_SIGMAS * math.sqrt(rate / max(window_s, LEAST_WINDOW_S))
    return min(max(planned, rate), rate + slack)


def clearing_rate(waiting: int, *, objective_s: float) -> float:
    """Requests per second that clear what waits in a pool within half an objective."""
    return waiting / (objective_s / 2)


def _rate(demand: Demand, *, now: float, seconds: float) -> float:
    """Mean rate over the last ``seconds`` whole seconds that the routers have reported in full."""
    end = math.floor(now - FLUSH_LAG_S)
    start = end - math.ceil(seconds)
    if not demand.counts:
        return 0.0
    known_from = min(second for second, _ in demand.counts)
    span = min(end - start, max(end - known_from, LEAST_SPAN_S))
    total = sum(count for second, count in demand.counts if end - span <= second < end)
    return total / span
