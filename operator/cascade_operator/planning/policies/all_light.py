"""Baseline: a light variant answers every prompt (Clipper, light).

It plans only with rows of r = 0 and d = 0, and so with the best light variant that the load allows.
"""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import PlanningPolicy, keep, of_two


class AllLight(PlanningPolicy):
    """Plans only with rows that send nothing to the heavy variant."""

    name = PolicyName.ALL_LIGHT

    def candidates(self, frontier: Frontier) -> Frontier:
        return keep(
            of_two(frontier),
            lambda row: row.heavy_load == 0,
            missing="spec.quality has no row with directPercent 0 and escalationPercent 0, which all-light needs",
        )
