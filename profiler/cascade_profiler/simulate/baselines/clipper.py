"""Clipper: one model on every worker, the lightest or the heaviest."""

from __future__ import annotations

from ..outcomes import DrawnRow
from .hadis import SMOOTHING
from .planners import Assignment, Level, Signals, Spread


class Clipper:
    """The same plan always."""

    smoothing = SMOOTHING
    margin = 1.05
    spread: Spread = "random"

    def __init__(self, name: str, *, variant: str, batch: int, quality: float, workers: int, drop_after: float) -> None:
        self.name = name
        self.drop_after = drop_after
        self._plan = Assignment((Level(variant, workers, batch),), DrawnRow((), 0.0, 0.0), quality)

    def start(self) -> Assignment:
        return self._plan

    def solve(self, signals: Signals) -> Assignment:
        return self._plan
