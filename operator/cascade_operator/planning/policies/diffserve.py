"""Baseline: one fixed pair, no prompt goes direct, as many escalate as fit (DiffServe)."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import Published, cheapest_first, keep, of_two


class DiffServe(Published):
    """Plans with the rows of one pair that only escalate."""

    name = PolicyName.DIFFSERVE

    def candidates(self, frontier: Frontier) -> Frontier:
        """Of several variants the pair is the second cheapest and the dearest, of two both."""
        pairs = of_two(frontier)
        variants = cheapest_first(pairs)
        light, heavy = variants[1 if len(variants) > 2 else 0], variants[-1]
        return keep(
            pairs,
            lambda row: row.chain == (light, heavy) and row.direct == 0,
            missing=f"spec.quality has no row with directPercent 0 of {light} → {heavy}, which diffserve needs",
        )
