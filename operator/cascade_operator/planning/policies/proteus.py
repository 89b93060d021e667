"""Baseline: accuracy scaling over single variants; prompts are split by what each can carry (Proteus, fair load split).

It plans only with rows in which one variant makes all images (T = 0 or r = 1), mixed as the load allows.
"""

from __future__ import annotations

from typing import ClassVar

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import Dispatch, Published, keep


class Proteus(Published):
    """Plans only with rows of one variant alone: no image is judged, and none is made twice."""

    name = PolicyName.PROTEUS
    dispatch: ClassVar[Dispatch] = "least-wait"

    def candidates(self, frontier: Frontier) -> Frontier:
        return keep(
            frontier,
            lambda row: row.heavy_load == 0 or row.light_load == 0,
            missing="spec.quality has no row with directPercent 0 and escalationPercent 0, or directPercent 100",
        )
