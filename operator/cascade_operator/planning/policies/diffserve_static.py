"""Baseline: DiffServe provisioned for the peak: pools and shares are those of the highest demand seen so far."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ...snapshot import Demand
from ..arrivals import ArrivalRate, fast_up_slow_down
from . import diffserve
from .base import Policy


def highest_so_far(demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
    """Never falls."""
    rate = fast_up_slow_down(demand, now=now, window_s=window_s, last=None).rate
    return ArrivalRate(max(rate, last.rate if last is not None else 0.0), now)


POLICY = Policy(
    PolicyName.DIFFSERVE_STATIC, diffserve.candidates, dispatch="random", forecaster=highest_so_far, thrifty=False
)
