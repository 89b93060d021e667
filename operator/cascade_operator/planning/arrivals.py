"""How many requests per second to plan for: an arrival-rate forecast for when a decision takes effect.

Counts come per whole second; a second that is absent had no arrivals, and so had the time before the oldest
count only if that lies before the window: after a restart the window begins with what is known. Queries that
wait are no demand: they are charged to the pool where they wait, as a rate that clears them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ConfigDict

from ..snapshot import Demand

LEAST_WINDOW_S = 4.0
MOST_WINDOW_S = 300.0
"""Routers count arrivals for ten minutes; older ones tell little of the next, however patient the requests are."""
TREND_S = 12.0
"""Least seconds that a trend is read from; fewer tell little beside chance."""
TREND_SIGMAS = 0.5
"""Standard errors that a trend is taken to be smaller than it looks; below one it is none."""
RECENT_PARTS = (1 / 12, 1 / 6)
"""Parts of the window that alone may tell a surge."""
FALL_PART = 1 / 4
"""The part of the window that tells how far a fall has come."""
SURGE_SIGMAS = 4.0
"""How far above the window's mean, in Poisson standard deviations, a recent part counts as a surge."""
LEAST_SPAN_S = 2.0
FLUSH_LAG_S = 0.3
"""Routers report a second's arrivals up to a quarter second later."""


@dataclass(frozen=True)
class ArrivalRate:
    """Requests per second, without margin, as of a time in Unix seconds.

    ``trend`` is their change per second, ``least`` what a falling rate does not go below. ``surged``: the last seconds
    stand out from the window.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    rate: float
    at_s: float
    trend: float = 0.0
    least: float = 0.0
    surged: bool = False

    def after(self, seconds: float) -> float:
        """The rate so many seconds later."""
        return max(self.rate + self.trend * seconds, self.least)


def fast_up_slow_down(demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
    """The window's mean, carried on along the trend that stands out from chance; at once the rate of a surge.

    A fall is followed no further than the last part of the window has come. The second under way counts only for what
    it has already brought.
    """
    window_s = bounded_window_s(window_s)
    trend_s = max(window_s, TREND_S)
    arrivals = _Arrivals.of(demand, now=now, seconds=trend_s)
    mean = arrivals.rate(window_s)
    recent = [(1, float(arrivals.under_way))]
    for number, part in enumerate(RECENT_PARTS):
        seconds = math.ceil(max(window_s * part, number + 1))
        recent.append((seconds, arrivals.rate(seconds)))
    surges = [
        rate for seconds, rate in recent if (rate - mean) * seconds > SURGE_SIGMAS * math.sqrt(max(mean * seconds, 1.0))
    ]
    if surges:
        return ArrivalRate(max(surges), now, least=max(surges), surged=True)
    trend = arrivals.trend(trend_s)
    lag_s = now - _last_second(now) + window_s / 2
    least = min(mean, arrivals.rate(window_s * FALL_PART))
    return ArrivalRate(max(mean + trend * lag_s, least), now, trend, least)


def bounded_window_s(window_s: float) -> float:
    """Seconds of arrivals to look at where ``window_s`` are asked for: enough to tell something, and not too many."""
    return min(max(window_s, LEAST_WINDOW_S), MOST_WINDOW_S)


def moving_average(demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
    """Baseline: the exponentially weighted moving average of the published systems, over the window."""
    rate = _Arrivals.of(demand, now=now, seconds=LEAST_SPAN_S).rate(LEAST_SPAN_S)
    if last is None:
        return ArrivalRate(rate, now)
    kept = math.exp(-max(now - last.at_s, 0.0) / window_s)
    return ArrivalRate(last.rate * kept + rate * (1 - kept), now)


def clearing_rate(waiting: int, *, objective_s: float) -> float:
    """Requests per second that clear what waits in a pool within half an objective."""
    return waiting / (objective_s / 2)


def _last_second(now: float) -> int:
    """The end of the last whole second that the routers have reported in full."""
    return math.floor(now - FLUSH_LAG_S)


@dataclass(frozen=True)
class _Arrivals:
    """Counts of the last whole seconds that were reported in full, the oldest first.

    ``known_s`` is how long ago the first count of all was, ``under_way`` the most that a later second has so far.
    """

    counts: tuple[int, ...]
    known_s: int
    under_way: int

    @classmethod
    def of(cls, demand: Demand, *, now: float, seconds: float) -> _Arrivals:
        end, number = _last_second(now), math.ceil(seconds)
        counts, under_way = [0] * number, 0
        for second, count in reversed(demand.counts):
            if second < end - number:
                break
            if second < end:
                counts[second - end] = count
            else:
                under_way = max(under_way, count)
        return cls(tuple(counts), end - demand.counts[0][0] if demand.counts else 0, under_way)

    def rate(self, seconds: float) -> float:
        """Mean rate over the last ``seconds``, as far as they are known."""
        span = int(min(math.ceil(seconds), max(self.known_s, LEAST_SPAN_S)))
        return sum(self.counts[-span:]) / span

    def trend(self, seconds: float) -> float:
        """Change of the rate per second by least squares, less what chance could make of it; 0 until all is known."""
        number = math.ceil(seconds)
        if self.known_s < number:
            return 0.0
        arrivals = self.counts[-number:]
        middle, mean = (number - 1) / 2, sum(arrivals) / number
        spread = sum((index - middle) ** 2 for index in range(number))
        slope = sum((index - middle) * count for index, count in enumerate(arrivals)) / spread
        # Arrivals by chance alone have a variance of their mean in each second.
        chance = TREND_SIGMAS * math.sqrt(max(mean, 1 / number) / spread)
        return math.copysign(max(abs(slope) - chance, 0.0), slope)
