"""Clipper: one model on every worker, the lightest or the heaviest."""

from __future__ import annotations

from ..outcomes import DrawnRow
from .hadis import SMOOTHING
from .planners import Level, Signals, SolvedPlan, Spread


class PublishedClipper:
    """A planner that always gives the same plan."""

    smoothing = SMOOTHING
    margin = 1.05
    spread: Spread = "random"

    def __init__(self, name: str, *, variant: str, batch: int, quality: float, workers: int, drop_after: float) -> None:
        self.name = name
        self.drop_after = drop_after
        self._plan = SolvedPlan((Level(variant, workers, batch),), DrawnRow((), 0.0, 0.0), quality)

    def start(self) -> SolvedPlan:
        return self._plan

    def solve(self, signals: Signals) -> SolvedPlan:
        return self._plan
