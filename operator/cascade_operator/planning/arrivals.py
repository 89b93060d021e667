"""A forecast of the arrival rate (requests per second) from the arrivals that routers counted.

Routers count arrivals per whole second, and leave out seconds without any. The product's forecast (`fast_up_slow_down`)
looks at a window of these counts and does one of two things:

- If the last seconds have clearly more arrivals than chance explains (a surge), their rate is the forecast at once.
- Otherwise the forecast is the window's mean, carried forward along the part of its trend that chance does not explain:

      rate(now + t) = mean + trend·(lag + t),    but not below the rate that a fall has already reached

where ``lag`` is the time from the middle of the window to now. So the forecast rises fast and falls slowly.

If the oldest count is younger than the window, the mean is taken from that count on: after a restart nothing is known
about the time before. Requests that wait in a queue are not part of this rate. They are charged to the pool where they
wait, as a rate that clears them (`clearing_rate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ConfigDict

from ..snapshot import Demand

LEAST_WINDOW_S = 4.0
MOST_WINDOW_S = 300.0
"""Longest window. Routers keep counts for ten minutes, but old arrivals say little about the next ones."""
TREND_S = 12.0
"""Fewest seconds to compute a trend from; over fewer, chance hides it."""
TREND_SIGMAS = 0.5
"""A measured trend is reduced by this many standard errors, to 0 at the lowest."""
RECENT_PARTS = (1 / 12, 1 / 6)
"""The most recent parts of the window, each of which is compared with the whole window to detect a surge."""
FALL_PART = 1 / 4
"""The most recent part of the window, whose rate a falling forecast does not go below."""
SURGE_SIGMAS = 4.0
"""A recent part is a surge if it is this many Poisson standard deviations above the window's mean."""
LEAST_SPAN_S = 2.0
FLUSH_LAG_S = 0.3
"""Routers report the arrivals of a second up to a quarter of a second after its end."""


@dataclass(frozen=True)
class ArrivalRate:
    """A forecast in requests per second, without a margin, made at ``at_s`` (Unix seconds).

    ``trend`` is the change of the rate per second, and ``least`` the rate that a fall does not go below. ``surged``
    means that the rate is that of a surge in the last seconds.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)
    rate: float
    at_s: float
    trend: float = 0.0
    least: float = 0.0
    surged: bool = False

    def after(self, seconds: float) -> float:
        """The rate that many seconds after `at_s`."""
        return max(self.rate + self.trend * seconds, self.least)


def fast_up_slow_down(demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
    """The product's forecast: the rate of a surge at once, or else the window's mean with its trend.

    A falling trend does not take the forecast below the rate of the window's last quarter. The second that has not yet
    ended can reveal a surge, by the arrivals that it already has; it does not count for the mean or the trend.
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
    """Seconds of arrivals to look at: ``window_s``, but at least `LEAST_WINDOW_S` and at most `MOST_WINDOW_S`."""
    return min(max(window_s, LEAST_WINDOW_S), MOST_WINDOW_S)


def moving_average(demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
    """Baseline, the forecast of the published systems: an exponentially weighted moving average.

    rate = last·k + measured·(1 - k), with k = exp(-elapsed / window) and ``measured`` over the last two seconds.
    """
    rate = _Arrivals.of(demand, now=now, seconds=LEAST_SPAN_S).rate(LEAST_SPAN_S)
    if last is None:
        return ArrivalRate(rate, now)
    kept = math.exp(-max(now - last.at_s, 0.0) / window_s)
    return ArrivalRate(last.rate * kept + rate * (1 - kept), now)


def clearing_rate(waiting: int, *, objective_s: float) -> float:
    """Requests per second that serve all ``waiting`` requests of a pool within half an objective."""
    return waiting / (objective_s / 2)


def _last_second(now: float) -> int:
    """The end (Unix seconds) of the last whole second whose arrivals all routers have reported."""
    return math.floor(now - FLUSH_LAG_S)


@dataclass(frozen=True)
class _Arrivals:
    """Counts of the last whole seconds that were reported in full, oldest first.

    ``known_s`` says for how many seconds counts exist. ``under_way`` is the largest count of a second that is not yet
    reported in full.
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
        """Mean rate over the last ``seconds``, or over the part of them that is known."""
        span = int(min(math.ceil(seconds), max(self.known_s, LEAST_SPAN_S)))
        return sum(self.counts[-span:]) / span

    def trend(self, seconds: float) -> float:
        """Change of the rate per second, by least squares, reduced by `TREND_SIGMAS` standard errors.

        It is 0 until counts exist for all of the ``seconds``.
        """
        number = math.ceil(seconds)
        if self.known_s < number:
            return 0.0
        arrivals = self.counts[-number:]
        middle, mean = (number - 1) / 2, sum(arrivals) / number
        spread = sum((index - middle) ** 2 for index in range(number))
        slope = sum((index - middle) * count for index, count in enumerate(arrivals)) / spread
        # For Poisson arrivals the variance of each second's count equals its mean.
        chance = TREND_SIGMAS * math.sqrt(max(mean, 1 / number) / spread)
        return math.copysign(max(abs(slope) - chance, 0.0), slope)
