"""Baseline: accuracy scaling over single variants, prompts split by what each can carry (Proteus, fair load split)."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Frontier
from ..arrivals import moving_average
from .base import Policy, keep


def candidates(frontier: Frontier) -> Frontier:
    """Rows that are one variant alone: no prompt is judged, none is made twice."""
    return keep(
        frontier,
        lambda row: row.heavy_load == 0 or row.light_load == 0,
        missing="spec.quality has no row with directPercent 0 and escalationPercent 0, or directPercent 100",
    )


POLICY = Policy(PolicyName.PROTEUS, candidates, forecaster=moving_average, thrifty=False)
