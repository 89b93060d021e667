"""The product's own policy: it mixes the rows of any one chain, so some prompts go direct and some images escalate.

If the heavy stage is full, routers are told to escalate more images than fit (`Hybrid.offer`). Arrivals fluctuate, and
a heavy replica that waits for work gives quality away; images that come too late are degraded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cascade_api.cascade import PolicyName

from ..allocation import (
    CascadeProblem,
    Frontier,
    PoolKey,
    PoolSize,
    Role,
    Sharing,
    holds_floor,
    pruned,
    running_columns,
)
from .base import PlanningPolicy

FULL_STAGE_LOAD: Final = 0.97
"""A stage counts as full from this part of the load that it can carry."""


class Hybrid(PlanningPolicy):
    """The product's own policy, with every row that a mixture of others does not replace."""

    name = PolicyName.HYBRID
    shares_workers = True

    def candidates(self, frontier: Frontier) -> Frontier:
        return pruned(frontier)

    def offer(
        self, problem: CascadeProblem, sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, most: float
    ) -> float:
        """``most`` if the heavy stage is full, so that it limits the quality; otherwise, and at a floor, 1."""
        if sharing.stages is None or (problem.floor is not None and holds_floor(problem, sharing.value)):
            return 1.0
        rate = sum(column.rate * count for column, count in running_columns(sharing.stages, Role.HEAVY, pools))
        carried = problem.heavy_utilisation * rate
        return most if problem.demand * sharing.heavy_load >= FULL_STAGE_LOAD * carried else 1.0
