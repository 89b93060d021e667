"""The second stage of a decision: how many requests per second to plan for.

The policy turns the counted arrivals into a rate (`arrivals`), and a margin is put on top. Two forecasts follow from
it, since shares and pools take effect at different times:

- Shares change at once, so they are chosen for the rate at the next tick.
- Pools change slowly, so they are chosen for the rate when the new pools serve: after the time of a move (a load,
  or the start of a worker where one could be started), plus half the time between two pool decisions.

If a move takes more than half an objective, the demand may have changed by chance before it is done. The rate for pools
then also looks ahead by the time of one image and is raised by 1.5 Poisson standard deviations:

    pool_rate = rate + 1.5·√(rate / window)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cascade_api.settings import PlannerSettings

from .arrivals import ArrivalRate, bounded_window_s
from .observed import Observed

SLOW_MOVE_SIGMAS: Final = 1.5
"""Poisson standard deviations of demand that pools must serve above the forecast where moves are slow.

Chosen on the published trace 1to64 with pod starts of 4.5 s (docs/benchmarks/policies.md)."""


@dataclass(frozen=True)
class Forecast:
    """The demand of one cascade, in requests per second with the margin.

    ``rate`` is the demand at the next tick, for shares; ``pool_rate`` is the demand when new pools serve.
    ``surged_at_s`` is when demand last surged (Unix seconds; 0: never).
    """

    arrivals: ArrivalRate
    rate: float
    pool_rate: float
    surged_at_s: float


def forecast(seen: Observed, now: float, settings: PlannerSettings) -> Forecast:
    """The demand of a cascade that can be planned.

    If arrivals are not known, the last rate is kept. If there is no last rate either, the demand of the last target
    is used, or one request per objective.
    """
    arrivals = _arrivals(seen, now, settings)
    least = 1 / seen.objective_s

    def after(seconds: float) -> float:
        return max(arrivals.after(seconds) * settings.forecast_margin, least)

    tick_s = settings.tick_s(seen.objective_s)
    rate = after(tick_s)
    # New pools serve from the end of their move until the next pool decision. A worker, or its Node, may take minutes
    # to come, and no trend is carried that far.
    window_s = bounded_window_s(settings.forecast_window * seen.objective_s)
    later_s = max(seen.known.load_s, min(seen.start_s, window_s)) + settings.pool_ticks * tick_s / 2
    if seen.moves_slowly:
        # By then more requests may arrive by chance, and replicas first finish the image that they are making.
        expected = after(later_s + seen.known.image_s)
        pool_rate = expected + SLOW_MOVE_SIGMAS * math.sqrt(expected / window_s)
    else:
        pool_rate = after(later_s)
    return Forecast(
        arrivals=arrivals,
        rate=rate,
        pool_rate=pool_rate,
        surged_at_s=now if arrivals.surged else seen.memory.surged_at_s,
    )


def _arrivals(seen: Observed, now: float, settings: PlannerSettings) -> ArrivalRate:
    last = seen.memory.arrivals
    if seen.view.demand is not None and seen.store_available:
        window_s = settings.forecast_window * seen.objective_s
        return seen.known.policy.forecast(seen.view.demand, now=now, window_s=window_s, last=last)
    if last is not None:
        return ArrivalRate(last.rate, last.at_s)
    decided = seen.memory.target.demand if seen.memory.target is not None else 0.0
    return ArrivalRate((decided or 1 / seen.objective_s) / settings.forecast_margin, now)
