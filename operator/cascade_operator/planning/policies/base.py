"""What a policy is: how a cascade is planned. `PlanningPolicy` does what ours does; others override what differs."""

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
    PoolKey,
    PoolSize,
    Row,
    Sharing,
    allocate,
    best_sharing,
)
from ..arrivals import ArrivalRate, fast_up_slow_down, moving_average

Dispatch = Literal["least-wait", "random"]


class PlanningPolicy(ABC):
    """One way to plan. It remembers nothing, so all cascades that name it share one."""

    name: ClassVar[PolicyName]
    dispatch: ClassVar[Dispatch] = "least-wait"
    """How routers choose among a pool's free replicas."""
    shares_workers: ClassVar[bool] = False
    """Whether it can plan for workers that host several variants each."""
    thrift: ClassVar[float] = 1.0
    """Quality that it gives up for a start saved, or for accelerator time, in parts of what the product does."""

    @abstractmethod
    def candidates(self, frontier: Frontier) -> Frontier:
        """Of every measured row those to plan with; raises ValueError where none can be used."""

    def forecast(self, demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
        """The rate of arrivals: from their counts, over about ``window_s`` seconds, and the rate forecast before."""
        return fast_up_slow_down(demand, now=now, window_s=window_s, last=last)

    def allocate(self, problem: AllocationProblem) -> Mapping[CascadeRef, Allocation]:
        """The pools of cascades that compete for accelerators and follow this policy."""
        return allocate(problem)

    def share(
        self, problem: CascadeProblem, pools: Mapping[PoolKey, PoolSize], *, backlog: Mapping[str, float] | None = None
    ) -> Sharing:
        """The mixture of rows on pools that exist; ``backlog`` is requests per second to clear, by variant."""
        return best_sharing(problem, pools, backlog=backlog)

    def offer(
        self, problem: CascadeProblem, sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, most: float
    ) -> float:
        """By what factor more images may escalate than fit, up to ``most``, where what is too much is degraded."""
        return 1.0

    def told(self, row: Row) -> tuple[float, float]:
        """Direct and escalation shares that routers are told for a planned row."""
        return row.direct, row.escalation


class Published(PlanningPolicy):
    """What the published systems have in common: they spread at random, look back only, and take switches for free."""

    dispatch: ClassVar[Dispatch] = "random"
    thrift = 0.0

    def forecast(self, demand: Demand, *, now: float, window_s: float, last: ArrivalRate | None) -> ArrivalRate:
        return moving_average(demand, now=now, window_s=window_s, last=last)


def keep(frontier: Frontier, wanted: Callable[[Row], bool], *, missing: str) -> Frontier:
    """The frontier with only the rows that are ``wanted``; raises ValueError(missing) where none is left."""
    chains = []
    for chain in frontier.chains:
        rows = tuple(row for row in chain.rows if wanted(row))
        if rows:
            chains.append(replace(chain, rows=rows))
    if not chains:
        raise ValueError(missing)
    return Frontier(tuple(chains), frontier.worst, frontier.best)


def of_two(frontier: Frontier) -> Frontier:
    """The frontier without variants alone, which the baselines do not know; raises ValueError where nothing is left."""
    return keep(
        replace(frontier, chains=tuple(chain for chain in frontier.chains if not chain.alone)),
        lambda row: True,
        missing="spec.quality has no chain of two variants, which this policy needs",
    )


def cheapest_first(frontier: Frontier) -> list[str]:
    """The variants by cost, as far as the chains tell: the light one of a chain is the cheaper."""
    variants = sorted({name for chain in frontier.chains for name in (chain.light, chain.heavy)})
    return sorted(variants, key=lambda name: sum(chain.heavy == name for chain in frontier.chains))
