"""What the pools of a cascade amount to: the allocation, and what limits it, in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from cascade_api.reasons import Reason

from .expectations import answers
from .hull import HostSet
from .mixtures import NOTHING
from .problem import Allocation, AllocationProblem, CascadeProblem, Fleet, Placement, PoolKey, PoolSize
from .shares import Sharing
from .stages import Role

FLOOR_TOLERANCE: Final = 1e-3
"""Normalised quality by which a plan may miss a floor and still hold it: the prices of work and loads are less."""

NOTABLE: Final = 0.01
"""Normalised quality that is worth words."""
MOST_NAMED: Final = 4


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
        binding=binding(cascade, problem, workers, sharing, whole=sum((hosts or {}).values())),
        gap=gap,
        hosts=hosts or {},
        all_heavy=all_heavy(cascade, problem),
    )


def verdict_of(cascade: CascadeProblem, sharing: Sharing, placement: Placement) -> Reason:
    """How well a cascade is served on a placement: `Allocation.verdict`, except SOLVER_LIMIT."""
    if not placement.pools or not sharing.mixture:
        return Reason.NO_CAPACITY
    if sharing.shed > NOTHING:
        return Reason.LOAD_SHED
    if not holds_floor(cascade, sharing.value):
        return Reason.QUALITY_BELOW_FLOOR
    if cascade.floor is None and _quality_is_shed(cascade, sharing):
        return Reason.QUALITY_SHED
    level = cascade.level
    if level.degrade:
        found = answers(sharing, placement, demand=cascade.demand, level=level, hull=cascade.hull)
        if found.degraded > 1 - level.attainment:
            return Reason.DEGRADING
    return Reason.OPTIMAL


def holds_floor(cascade: CascadeProblem, value: float) -> bool:
    """Whether a normalised quality holds the floor of a cascade; any does where there is none."""
    return cascade.floor_held_from is None or value >= cascade.floor_held_from - FLOOR_TOLERANCE


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
    cascade: CascadeProblem,
    problem: AllocationProblem,
    workers: Mapping[str, float],
    sharing: Sharing,
    *,
    whole: int = 0,
) -> tuple[str, ...]:
    """What limits the quality or the served load, in words that a user can act on; ``workers`` are by class.

    Of shared workers, ``workers`` are the part of their time that the cascade has, and ``whole`` is how many they are.
    """
    best = max((row.value for s in cascade.stages for row in s.chain.rows), default=0.0)
    floor = cascade.floor_held_from
    late = _left_out(cascade, best) if floor is None or not holds_floor(cascade, sharing.value) else ()
    if not any(s.columns for s in cascade.stages):
        return ("no variant makes one image within spec.objective.latency", *late)
    enough = best - NOTABLE if floor is None else floor - FLOOR_TOLERANCE
    if sharing.shed <= NOTHING and sharing.value >= enough:
        return late
    full, words = [], []
    if not holds_floor(cascade, best):
        reached = f"{cascade.frontier.metric(best):.4g}"
        words.append(f"the best row of the profile that is in time has {reached}: ask for no more than that")
        if sharing.value >= best - NOTABLE:
            return (*words, *late)
    for name, bounds in cascade.workers.items():
        part = workers.get(name, 0)
        here = max(part, whole)
        price, there = problem.prices_per_hour.get(name), problem.accelerators.get(name, 0)
        own = bounds.ceiling(price)
        if bounds.budget_per_hour is not None and price is None:
            words.append(f"class {name} has no price, so its budgetPerHour allows no workers")
        elif price and bounds.budget_per_hour is not None and here >= own and own < bounds.max and own <= there:
            full.append(
                f"workers of class {name} cost {here * price:.2f} of its budgetPerHour of {bounds.budget_per_hour:.2f}"
            )
        elif here >= min(own, there):
            where = "spec.workers" if own <= there else "the cluster"
            full.append(f"all {here} {name} accelerators that {where} allows are in use")
        elif here and there < own:
            full.append(f"other cascades use the remaining {name} accelerators; {here} are left")
        if part < here - NOTHING:
            full.append("other cascades of the WorkerPool have the rest of its workers' time")
    if full and cascade.level.headroom > NOTHING and max(whole, *workers.values(), 0) > NOTHING:
        full.append(f"spec.policy.headroomPercent keeps {cascade.level.headroom:.0%} of their time free")
    return (*full, *words, *late)


def _left_out(cascade: CascadeProblem, best: float) -> tuple[str, ...]:
    """What the objective leaves out that would be better than the ``best`` row that is in time; empty if nothing."""
    better = {chain.chain for chain in cascade.frontier.chains if any(row.value > best + NOTABLE for row in chain.rows)}
    late = dict.fromkeys(words for s in cascade.stages if s.chain.chain in better for words in s.too_late)
    if not late:
        return ()
    more = f", and {len(late) - MOST_NAMED} more" if len(late) > MOST_NAMED else ""
    return (
        f"spec.objective.latency of {cascade.level.objective_s:g} s leaves out {', '.join([*late][:MOST_NAMED])}{more}",
    )
