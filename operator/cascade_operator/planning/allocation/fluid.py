"""How many workers cascades get whose workers host all of their variants. Pure.

What a cascade is worth grows with its workers, at a falling rate: it is a walk along its hull. So cascades that compete
for accelerators get one worker after the other, each the one that gains most by it. That is optimal for such functions,
and needs no program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cascade_api.names import CascadeRef

from .hull import HostSet, Hull
from .mixtures import NOTHING
from .problem import Allocation, AllocationProblem, CascadeProblem, Placement, PoolKey, PoolSize
from .sets import User, allocate_on_sets
from .shares import shared_on
from .stages import SHED_PRICE
from .verdicts import allocation_of, verdict_of


def allocate_fluid(
    problem: AllocationProblem, cascades: Sequence[tuple[CascadeProblem, Hull]], *, left: Mapping[str, int]
) -> dict[CascadeRef, Allocation]:
    """Workers for ``cascades`` of a problem, from the accelerators that are ``left``, by class.

    A cascade gets no more workers than it gains by, nor fewer than its own bounds from below say, where that many are
    there. A worker that runs and costs nothing is kept. Cascades whose workers host sets of variants come first, one
    after the other.
    """
    free = dict(left)
    found: dict[CascadeRef, Allocation] = {}
    for cascade, hull in (pair for pair in cascades if len(pair[0].sets) > 1):
        name = hull.accelerator_class
        answer = _allocate_sets(problem, cascade, hull, free=free.get(name, 0))
        free[name] = free.get(name, 0) - sum(answer.hosts.values())
        found[cascade.ref] = answer
    cascades = [pair for pair in cascades if len(pair[0].sets) <= 1]
    counts = {cascade.ref: 0 for cascade, _ in cascades}
    ceilings = {c.ref: c.workers[h.accelerator_class].ceiling(_price(problem, h)) for c, h in cascades}

    def give(cascade: CascadeProblem, hull: Hull, *, most: int) -> None:
        ref, name = cascade.ref, hull.accelerator_class
        more = max(min(most, ceilings[ref]) - counts[ref], 0)
        more = min(more, free.get(name, 0))
        counts[ref] += more
        free[name] = free.get(name, 0) - more

    for cascade, hull in cascades:
        give(cascade, hull, most=_least(cascade, hull))
    if len(cascades) == 1:
        for cascade, hull in cascades:
            give(cascade, hull, most=_enough(cascade, hull))
    else:
        open_to = {cascade.ref: (cascade, hull) for cascade, hull in cascades}
        while open_to:
            gains = {ref: _gain(*open_to[ref], counts[ref]) for ref in open_to}
            ref = max(gains, key=lambda each: gains[each])
            before = counts[ref]
            if gains[ref] > NOTHING:
                give(*open_to[ref], most=before + 1)
            if counts[ref] == before:
                del open_to[ref]
    for cascade, hull in cascades:
        if not _price(problem, hull):
            give(cascade, hull, most=sum(cascade.running_hosts.values()))
    return found | {
        cascade.ref: _answer(problem, cascade, hull, {hull.hosts: count} if (count := counts[cascade.ref]) else {})
        for cascade, hull in cascades
    }


def _allocate_sets(problem: AllocationProblem, cascade: CascadeProblem, hull: Hull, *, free: int) -> Allocation:
    """The allocation of a cascade whose workers host sets of variants."""
    name = hull.accelerator_class
    variants = {digest: variant for variant, digest in hull.weights.items()}
    prices = {digest: cascade.switch_prices.get((variant, name), 0.0) for digest, variant in variants.items()}
    workers, _ = allocate_on_sets(
        [User(hull, hull.rows, max(cascade.demand, NOTHING), cascade.heavy_utilisation)],
        cascade.sets,
        least=_least(cascade, hull),
        most=min(cascade.workers[name].ceiling(_price(problem, hull)), free),
        running=cascade.running_hosts,
        load_price=prices,
        seed=problem.seed,
    )
    return _answer(problem, cascade, hull, workers)


def _price(problem: AllocationProblem, hull: Hull) -> float | None:
    return problem.prices_per_hour.get(hull.accelerator_class)


def _least(cascade: CascadeProblem, hull: Hull) -> int:
    return max([cascade.workers[hull.accelerator_class].min, *cascade.min_hosts.values()])


def _enough(cascade: CascadeProblem, hull: Hull) -> int:
    """Workers beyond which more gain nothing.

    For a floor no more is planned than fits: images that are degraded would be below it.
    """
    busy = cascade.heavy_utilisation if cascade.floor is None else cascade.light_utilisation
    best_quality = cascade.demand * hull.most_s / busy
    nothing_shed = cascade.demand * hull.least_s / cascade.light_utilisation
    return math.ceil(max(best_quality, nothing_shed) - NOTHING) if hull.corners else 0


def _gain(cascade: CascadeProblem, hull: Hull, count: int) -> float:
    """What one more worker is worth to a cascade that has ``count``."""
    return cascade.weight * (_score(cascade, hull, count + 1) - _score(cascade, hull, count))


def _score(cascade: CascadeProblem, hull: Hull, count: int) -> float:
    return shared_on(cascade, Placement({hull.hosts: count})).score if count else -SHED_PRICE


def _answer(
    problem: AllocationProblem, cascade: CascadeProblem, hull: Hull, hosts: Mapping[HostSet, int]
) -> Allocation:
    """The answer for workers by what they host."""
    return on_hosts(problem, cascade, hosts, Placement(hosts, served_by(hull, hosts)))


def on_hosts(
    problem: AllocationProblem, cascade: CascadeProblem, hosts: Mapping[HostSet, int], placement: Placement
) -> Allocation:
    """The allocation of a cascade whose pool has these ``hosts``, of which ``placement`` is its part."""
    sharing = shared_on(cascade, placement)
    running = cascade.running_hosts
    return allocation_of(
        problem,
        cascade,
        sharing,
        verdict_of(cascade, sharing, placement),
        pools=placement.pools,
        workers=dict.fromkeys(cascade.workers, placement.workers),
        switches=sum(max(count - running.get(each, 0), 0) for each, count in hosts.items()),
        hosts=hosts,
    )


def served_by(hull: Hull, hosts: Mapping[HostSet, int]) -> dict[PoolKey, PoolSize]:
    """By variant, how many workers serve it, and its largest batch."""
    counts = {
        name: sum(count for each, count in hosts.items() if hull.weights[name] in each.weights) for name in hull.batches
    }
    return {
        (name, hull.accelerator_class): PoolSize(count, hull.batches[name]) for name, count in counts.items() if count
    }
