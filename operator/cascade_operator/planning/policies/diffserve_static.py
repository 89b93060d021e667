"""Baseline: DiffServe provisioned for the peak: pools and shares are those for the highest demand seen so far."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ...snapshot import Demand
from ..arrivals import ArrivalRate, fast_up_slow_down
from .diffserve import DiffServe


class DiffServeStatic(DiffServe):
    """DiffServe whose rate never falls."""

    name = PolicyName.DIFFSERVE_STATIC

    def forecast(self, demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
        rate = fast_up_slow_down(demand, now=now, window_s=window_s, last=None).rate
        return ArrivalRate(max(rate, last.rate if last is not None else 0.0), now)
