"""What the pools of a cascade amount to: the allocation, and what limits it, in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from cascade_api.reasons import Reason

from .hull import HostSet
from .mixtures import NOTHING
from .problem import Allocation, AllocationProblem, CascadeProblem, Fleet, PoolKey, PoolSize
from .shares import Sharing
from .stages import Role

FLOOR_TOLERANCE: Final = 1e-3
"""Normalised quality by which a plan may miss a floor and still hold it: the prices of work and loads are less."""


def allocation_of(
    problem: AllocationProblem,
    cascade: CascadeProblem,
    sharing: Sharing,
    verdict: Reason,
    *,
    pools: Mapping[PoolKey, PoolSize],
    workers: Mapping[str, float],
    switches: int,
    hosts: Mapping[HostSet, int] | None = None,
    gap: float = 0.0,
) -> Allocation:
    """The answer for a cascade that gets these pools on so many ``workers`` by class, and shares them so."""
    return Allocation(
        ref=cascade.ref,
        mixture=sharing.mixture,
        pools=pools,
        shed=sharing.shed,
        value=sharing.value,
        verdict=verdict,
        switches=switches,
        cost_per_hour=sum(problem.prices_per_hour.get(on, 0.0) * count for on, count in workers.items()),
        binding=binding(cascade, problem, workers, sharing),
        gap=gap,
        hosts=hosts or {},
        all_heavy=all_heavy(cascade, problem),
    )


def holds_floor(cascade: CascadeProblem, value: float) -> bool:
    """Whether a normalised quality holds the floor of a cascade; any does where there is none."""
    return cascade.floor_held_from is None or value >= cascade.floor_held_from - FLOOR_TOLERANCE


def quality_verdict(cascade: CascadeProblem, sharing: Sharing) -> Reason:
    """What to say of the quality of a cascade whose whole demand is served."""
    if cascade.floor is not None:
        return Reason.OPTIMAL if holds_floor(cascade, sharing.value) else Reason.QUALITY_BELOW_FLOOR
    return Reason.QUALITY_SHED if _quality_is_shed(cascade, sharing) else Reason.OPTIMAL


def all_heavy(cascade: CascadeProblem, problem: AllocationProblem) -> Fleet | None:
    """The cheapest workers of one class that make every image by the best variant; None if none is in time."""
    rows = [(row.value, stages) for stages in cascade.stages for row in stages.chain.rows if not row.light_load]
    if not rows:
        return None
    _, best = max(rows, key=lambda pair: pair[0])
    seconds: dict[str, float] = {}
    for column in best.of(Role.HEAVY):
        name = column.accelerator_class
        seconds[name] = min(seconds.get(name, math.inf), 1 / column.rate)
    fleets = []
    for name, image_s in seconds.items():
        workers = math.ceil(cascade.demand * image_s / cascade.light_utilisation - NOTHING)
        fleets.append(Fleet(workers, workers * problem.prices_per_hour.get(name, 0.0)))
    return min(fleets, key=lambda fleet: (fleet.cost_per_hour, fleet.workers), default=None)


def _quality_is_shed(cascade: CascadeProblem, sharing: Sharing) -> bool:
    """Whether the load leaves room only for the rows of least heavy load, although better rows are measured."""
    rows = [row for stages in cascade.stages for row in stages.chain.rows]
    least = min((row.heavy_load for row in rows), default=0.0)
    best = max((row.value for row in rows), default=0.0)
    return sharing.heavy_load <= least + NOTHING and sharing.value < best - NOTHING


def binding(
    cascade: CascadeProblem, problem: AllocationProblem, workers: Mapping[str, float], sharing: Sharing
) -> tuple[str, ...]:
    """What limits the quality or the served load, in words that a user can act on; ``workers`` are by class."""
    best = max((row.value for s in cascade.stages for row in s.chain.rows), default=0.0)
    enough = best - 0.01 if cascade.floor_held_from is None else cascade.floor_held_from - FLOOR_TOLERANCE
    if sharing.shed <= NOTHING and sharing.value >= enough:
        return ()
    words = []
    if not holds_floor(cascade, best):
        reached = f"{cascade.frontier.metric(best):.4g}"
        words.append(f"the best row of the profile that is in time has {reached}: ask for no more than that")
        if sharing.value >= best - 0.01:
            return tuple(words)
    for name, bounds in cascade.workers.items():
        here = workers.get(name, 0)
        price, there = problem.prices_per_hour.get(name), problem.accelerators.get(name, 0)
        own = bounds.ceiling(price)
        if bounds.budget_per_hour is not None and price is None:
            words.append(f"class {name} has no price, so its budgetPerHour allows no workers")
        elif price and bounds.budget_per_hour is not None and here >= own and own < bounds.max and own <= there:
            words.append(
                f"workers of class {name} cost {here * price:.2f} of its budgetPerHour of {bounds.budget_per_hour:.2f}"
            )
        elif here >= min(own, there):
            where = "spec.workers" if own <= there else "the cluster"
            words.append(f"all {here} {name} accelerators that {where} allows are in use")
        elif here and there < own:
            words.append(f"other cascades use the remaining {name} accelerators; {here} are left")
    if not any(s.columns for s in cascade.stages):
        words.append("no variant makes one image within spec.objective.latency")
    return tuple(words)
