"""What a policy may decide about planning. `PlanningPolicy` contains the product's way; others override what differs.

A policy chooses which measured rows to plan with, forecasts the arrival rate, allocates pools, shares the load among
ready replicas, and says what routers are told. All other parts of the planner are the same for every policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from cascade_api.cascade import PolicyName
from cascade_api.names import CascadeRef

from ...snapshot import Demand
from ..allocation import (
    Allocation,
    AllocationProblem,
    CascadeProblem,
    Frontier,
    Placement,
    PoolKey,
    PoolSize,
    Row,
    Sharing,
    allocate,
    shared_on,
)
from ..arrivals import ArrivalRate, fast_up_slow_down, moving_average

Dispatch = Literal["least-wait", "random"]


class PlanningPolicy(ABC):
    """One way to plan. It has no state, so all cascades that name it share one object."""

    name: ClassVar[PolicyName]
    dispatch: ClassVar[Dispatch] = "least-wait"
    """How routers choose among a pool's free replicas."""
    shares_workers: ClassVar[bool] = False
    """Whether it can plan for workers that host several variants each."""
    thrift: ClassVar[float] = 1.0
    """How much quality it gives up to save a start or accelerator time: 1 as the product does, 0 none."""

    @abstractmethod
    def candidates(self, frontier: Frontier) -> Frontier:
        """The measured rows to plan with; raises ValueError if none can be used."""

    def forecast(self, demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
        """The arrival rate, from the counts of about ``window_s`` seconds and from the ``last`` forecast."""
        return fast_up_slow_down(demand, now=now, window_s=window_s, last=last)

    def allocate(self, problem: AllocationProblem) -> Mapping[CascadeRef, Allocation]:
        """The pools of cascades that compete for accelerators and follow this policy."""
        return allocate(problem)

    def share(
        self, problem: CascadeProblem, placement: Placement, *, backlog: Mapping[str, float] | None = None
    ) -> Sharing:
        """The mixture of rows for workers that exist; ``backlog`` is requests per second to clear, by variant."""
        return shared_on(problem, placement, backlog=backlog)

    def offer(
        self, problem: CascadeProblem, sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, most: float
    ) -> float:
        """Factor, 1 to ``most``, by which more images escalate than fit; those that come too late are degraded."""
        return 1.0

    def told(self, row: Row) -> tuple[float, float]:
        """The direct and escalation shares that routers are told for a planned row."""
        return row.direct, row.escalation


class Published(PlanningPolicy):
    """What the published systems have in common.

    They give work to a replica at random, forecast by a moving average, and put no price on switches.
    """

    dispatch: ClassVar[Dispatch] = "random"
    thrift = 0.0

    def forecast(self, demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
        return moving_average(demand, now=now, window_s=window_s, last=last)


def keep(frontier: Frontier, wanted: Callable[[Row], bool], *, missing: str) -> Frontier:
    """The frontier with only the rows that are ``wanted``; raises ValueError(missing) if none is left."""
    chains = []
    for chain in frontier.chains:
        rows = tuple(row for row in chain.rows if wanted(row))
        if rows:
            chains.append(replace(chain, rows=rows))
    if not chains:
        raise ValueError(missing)
    return Frontier(tuple(chains), frontier.worst, frontier.best)


def of_two(frontier: Frontier) -> Frontier:
    """The frontier without chains of one variant, which these baselines lack; raises ValueError if nothing is left."""
    return keep(
        replace(frontier, chains=tuple(chain for chain in frontier.chains if not chain.alone)),
        lambda row: True,
        missing="spec.quality has no chain of two variants, which this policy needs",
    )


def cheapest_first(frontier: Frontier) -> list[str]:
    """The variants, cheapest first, as far as the chains tell: the light variant of a chain is the cheaper one."""
    variants = sorted({name for chain in frontier.chains for name in (chain.light, chain.heavy)})
    return sorted(variants, key=lambda name: sum(chain.heavy == name for chain in frontier.chains))
