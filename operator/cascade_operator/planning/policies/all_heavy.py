"""Baseline: every prompt goes straight to a heavy variant (Clipper, heavy)."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import PlanningPolicy, keep, of_two


class AllHeavy(PlanningPolicy):
    """Plans with rows that send everything direct."""

    name = PolicyName.ALL_HEAVY

    def candidates(self, frontier: Frontier) -> Frontier:
        return keep(
            of_two(frontier),
            lambda row: row.light_load == 0,
            missing="spec.quality has no row with directPercent 100, which all-heavy needs",
        )
