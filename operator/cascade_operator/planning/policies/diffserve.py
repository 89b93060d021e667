"""Baseline: one fixed pair, no prompt goes direct, as many escalate as fit (DiffServe)."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from ..arrivals import moving_average
from .base import Policy, cheapest_first, keep


def candidates(frontier: Frontier) -> Frontier:
    """Rows of the pair that only escalate: of several variants the second cheapest and the dearest, of two both."""
    variants = cheapest_first(frontier)
    light, heavy = variants[1 if len(variants) > 2 else 0], variants[-1]
    return keep(
        frontier,
        lambda row: (row.light, row.heavy) == (light, heavy) and row.direct == 0,
        missing=f"spec.quality has no row with directPercent 0 of {light} → {heavy}, which diffserve needs",
    )


POLICY = Policy(PolicyName.DIFFSERVE, candidates, dispatch="random", forecaster=moving_average, thrifty=False)
