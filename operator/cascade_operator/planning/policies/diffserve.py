"""Baseline: one fixed pair of variants, no prompt goes direct, and as many images escalate as fit (DiffServe).

It plans only with rows of r = 0 of one pair; d follows the load. Source: arXiv 2411.15381.
"""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import Published, cheapest_first, keep, of_two


class DiffServe(Published):
    """Plans only with the rows of one pair that send no prompt directly to the heavy variant."""

    name = PolicyName.DIFFSERVE

    def candidates(self, frontier: Frontier) -> Frontier:
        """The pair's rows. With two variants the pair is both; with more, the second cheapest and the dearest."""
        pairs = of_two(frontier)
        variants = cheapest_first(pairs)
        light, heavy = variants[1 if len(variants) > 2 else 0], variants[-1]
        return keep(
            pairs,
            lambda row: row.chain == (light, heavy) and row.direct == 0,
            missing=f"spec.quality has no row with directPercent 0 of {light} → {heavy}, which diffserve needs",
        )
