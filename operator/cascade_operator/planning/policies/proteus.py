"""Baseline: accuracy scaling over single variants, prompts split by what each can carry (Proteus, fair load split)."""

from __future__ import annotations

from typing import ClassVar

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from .base import Dispatch, Published, keep


class Proteus(Published):
    """Plans with rows that are one variant alone: no prompt is judged, none is made twice."""

    name = PolicyName.PROTEUS
    dispatch: ClassVar[Dispatch] = "least-wait"

    def candidates(self, frontier: Frontier) -> Frontier:
        return keep(
            frontier,
            lambda row: row.heavy_load == 0 or row.light_load == 0,
            missing="spec.quality has no row with directPercent 0 and escalationPercent 0, or directPercent 100",
        )
