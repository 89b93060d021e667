"""Baseline: every prompt goes straight to a heavy variant (Clipper, heavy).

It plans only with rows of r = 1, and so with the best heavy variant that the load allows.
"""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import PlanningPolicy, keep, of_two


class AllHeavy(PlanningPolicy):
    """Plans only with rows that send every prompt directly to the heavy variant."""

    name = PolicyName.ALL_HEAVY

    def candidates(self, frontier: Frontier) -> Frontier:
        return keep(
            of_two(frontier),
            lambda row: row.light_load == 0,
            missing="spec.quality has no row with directPercent 100, which all-heavy needs",
        )
