"""Ours: any row of any chain, mixed: some prompts go direct, some light images escalate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cascade_api.cascade import PolicyName

from ..allocation import CascadeProblem, Frontier, PoolKey, PoolSize, Role, Sharing, pruned, running_columns
from .base import PlanningPolicy

FULL_STAGE_LOAD: Final = 0.97
"""The part of what a stage can carry from which it is full."""


class Hybrid(PlanningPolicy):
    """The product's own way, with every row that is not beaten by a mixture of others."""

    name = PolicyName.HYBRID
    shares_workers = True

    def candidates(self, frontier: Frontier) -> Frontier:
        return pruned(frontier)

    def offer(
        self, problem: CascadeProblem, sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, most: float
    ) -> float:
        """``most`` where the heavy stage is full, so that it is what holds quality down.

        Arrivals waver, and a heavy replica that waits for work gives quality away.
        """
        if sharing.stages is None:
            return 1.0
        rate = sum(column.rate * count for column, count in running_columns(sharing.stages, Role.HEAVY, pools))
        carried = problem.heavy_utilisation * rate
        return most if problem.demand * sharing.heavy_load >= FULL_STAGE_LOAD * carried else 1.0
