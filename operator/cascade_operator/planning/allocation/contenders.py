"""Which chains can hold the best allocation: others are left out, which keeps the mixed-integer program small.

The method is that of branch and bound. First, find an allocation that is good (the running pools, or pools near a
bound) and compute what it is worth. Second, compute for every chain an upper bound of what any allocation of it can be
worth. Then leave out every chain whose bound is below the good allocation:

    a chain stays if    bound(chain) ≥ worth(good allocation) - the most that fees and rewards can change (`Dues.most`)

With the dual vertices (π₀, π_light, π_heavy, π_direct) of the chain's linear program (`mixtures`), the bound is

    min over vertices of
        π₀ + Σ over classes of  max over n of  π_light·light(n) + (π_heavy + π_direct)·heavy(count - n)

where light(n) and heavy(n) are what n accelerators carry per prompt, and n is how many of a class are light. If there
is only one class, `splits` gives sharper bounds, for each number of light and heavy accelerators and with everything
that must be paid; then parts of chains are left out, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .mixtures import NOTHING
from .problem import CascadeProblem, PoolKey, PoolSize
from .shares import best_sharing
from .splits import Cells, Dues, Splits
from .stages import Column, Role, Stages

TRIED = 8
"""How many pairs of replica numbers, those of the highest bounds, are worked out to find a good allocation."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Carries:
    """What 0, 1, 2, … accelerators of a class carry as one stage, per prompt of the demand, and at which batch size.

    Utilisation and waiting time each limit it. ``overall`` respects both limits, ``by_use`` only the first and
    ``by_waiting`` only the second.
    """

    overall: Floats
    by_use: Floats
    by_waiting: Floats
    batch: npt.NDArray[np.int_]


@dataclass(frozen=True)
class Contender:
    """A chain, or a part of one, that may hold the best allocation.

    With one class, ``lights`` and ``heavies`` are the fewest and most accelerators of each stage, and ``columns`` and
    ``rows`` (by number) are those that may be used. None means no restriction.
    """

    stages: Stages
    lights: tuple[int, int] | None = None
    heavies: tuple[int, int] | None = None
    columns: tuple[Column, ...] | None = None
    rows: tuple[int, ...] | None = None


def contenders(cascade: CascadeProblem, *, ceilings: Mapping[str, int], dues: Dues) -> tuple[Contender, ...]:
    """The chains that may be the best on at most ``ceilings`` accelerators by class; ``dues`` is what must be paid."""
    if len(ceilings) == 1:
        return _of_one_class(cascade, ceilings=ceilings, dues=dues)
    bounded = [_bounded(cascade, stages, ceilings) for stages in cascade.stages]
    ranked = sorted(bounded, key=lambda pair: -pair[0])
    running = {key: PoolSize(n, cascade.running_batch.get(key, 1)) for key, n in cascade.running.items() if n}
    at_hand = [pools for pools in (running, *(pools for _, pools in ranked[:2])) if pools]
    worth = max((_worth(cascade, pools) for pools in at_hand if _allowed(cascade, pools, ceilings)), default=None)
    if worth is None:
        return tuple(Contender(stages) for stages in cascade.stages)
    largest = max((column.service.batch for stages in cascade.stages for column in stages.columns), default=1)
    least = worth - dues.most(replicas=sum(ceilings.values()), batch=largest)
    return tuple(
        Contender(stages) for stages, (bound, _) in zip(cascade.stages, bounded, strict=True) if bound >= least
    )


def _of_one_class(cascade: CascadeProblem, *, ceilings: Mapping[str, int], dues: Dues) -> tuple[Contender, ...]:
    """`contenders` for one class: bounds first for each number of light accelerators, then for each pair of numbers."""
    ((name, count),) = ceilings.items()
    chains = [Splits(cascade, stages, name, count, dues) for stages in cascade.stages]
    bounded = sorted(((chain, chain.bounds()) for chain in chains), key=lambda pair: -float(pair[1].max()))
    running = {key: PoolSize(n, cascade.running_batch.get(key, 1)) for key, n in cascade.running.items() if n}
    least = _net(cascade, running, dues) if running and _allowed(cascade, running, ceilings) else -math.inf
    for chain, bound in bounded[:1]:
        lights = int(bound.argmax())
        least = max(least, _best_of(chain, chain.cells(lights, lights), cascade, ceilings))
    if math.isinf(least):
        return tuple(Contender(stages) for stages in cascade.stages)
    spare = NOTHING + dues.kept * count
    left = []
    for chain, bound in bounded:
        splits = np.flatnonzero(bound >= least - spare)
        if len(splits):
            cells = chain.cells(int(splits[0]), int(splits[-1])).at_least(least - spare)
            left.append((chain, cells, float(cells.worth.max(initial=-math.inf))))
    for chain, cells, _ in sorted(left, key=lambda item: -item[2])[:2]:
        least = max(least, _best_of(chain, cells, cascade, ceilings))
    return tuple(
        Contender(chain.stages, part.lights, part.heavies, part.columns, part.rows)
        for chain, cells, _ in left
        for part in chain.narrowed(cells, worth=least - spare)
    )


def _best_of(chain: Splits, cells: Cells, cascade: CascadeProblem, ceilings: Mapping[str, int]) -> float:
    """The worth of the best allocation among the `TRIED` highest bounds; -inf if there is none or it is not allowed."""
    choices = chain.choices(cells.highest(TRIED))
    if choices is None:
        return -math.inf
    at = int(choices.worth.argmax())
    return float(choices.worth[at]) if _allowed(cascade, chain.pools(choices, at), ceilings) else -math.inf


def _net(cascade: CascadeProblem, running: Mapping[PoolKey, PoolSize], dues: Dues) -> float:
    """What the running pools are worth, less everything that they pay."""
    paid = sum(dues.replica * pool.replicas + dues.doubling * math.log2(pool.batch) for pool in running.values())
    return _worth(cascade, running) - paid


def _bounded(
    cascade: CascadeProblem, stages: Stages, ceilings: Mapping[str, int]
) -> tuple[float, dict[PoolKey, PoolSize]]:
    """An upper bound of what a chain can gain, and pools that come near it."""
    prices = stages.mixer.prices
    carried = [
        (
            name,
            count,
            _carries(cascade, stages, Role.LIGHT, name, count),
            _carries(cascade, stages, Role.HEAVY, name, count),
        )
        for name, count in ceilings.items()
    ]

    def splits(light: Floats, heavy: Floats) -> Floats:
        # Rows are vertices, columns are numbers of light accelerators. Each vertex bounds the gain by its best split.
        return np.asarray(prices[:, 1:2] * light + (prices[:, 2:3] + prices[:, 3:4]) * heavy[::-1])

    def gained(each: Iterable[Floats]) -> Floats:
        return np.asarray(prices[:, 0] + sum(split.max(axis=1) for split in each))

    # Both limits hold for the sum over all classes. Each gives a valid bound; the smaller one for each class does not.
    bound = min(
        float(gained(splits(light.by_use, heavy.by_use) for *_, light, heavy in carried).min()),
        float(gained(splits(light.by_waiting, heavy.by_waiting) for *_, light, heavy in carried).min()),
    )
    vertex = int(gained(splits(light.overall, heavy.overall) for *_, light, heavy in carried).argmin())
    pools: dict[PoolKey, PoolSize] = {}
    for name, count, light, heavy in carried:
        lights = int(splits(light.overall, heavy.overall)[vertex].argmax())
        pools |= _pools(cascade, stages, name, (lights, light), (count - lights, heavy))
    return bound, pools


def _pools(
    cascade: CascadeProblem, stages: Stages, name: str, light: tuple[int, _Carries], heavy: tuple[int, _Carries]
) -> dict[PoolKey, PoolSize]:
    """The pools of one class, from (replicas, what they carry) of each stage; a stage that carries nothing has none."""
    return {
        (variant, name): PoolSize(number, int(stage.batch[number]))
        for variant, (number, stage) in ((stages.chain.light, light), (stages.chain.heavy, heavy))
        if stage.overall[number]
    }


def _carries(cascade: CascadeProblem, stages: Stages, role: Role, accelerator_class: str, count: int) -> _Carries:
    variant = stages.chain.light if role is Role.LIGHT else stages.chain.heavy
    busy = cascade.light_utilisation if role is Role.LIGHT else cascade.heavy_utilisation
    replicas = np.arange(count + 1)
    overall, by_use, by_waiting = (np.zeros(count + 1) for _ in range(3))
    batch = np.ones(count + 1, dtype=int)
    for column in stages.pools(role).get((variant, accelerator_class), ()):
        rate = column.rate / max(cascade.demand, NOTHING)
        in_use, waiting = busy * rate * replicas, rate * (replicas - column.reserve)
        load = np.minimum(in_use, waiting)
        batch[load > overall] = column.service.batch
        overall = np.maximum(overall, load)
        by_use, by_waiting = np.maximum(by_use, in_use), np.maximum(by_waiting, waiting)
    return _Carries(overall, by_use, by_waiting, batch)


def _worth(cascade: CascadeProblem, pools: Mapping[PoolKey, PoolSize]) -> float:
    starts = sum(
        cascade.switch_prices.get(key, 0.0) * max(pool.replicas - cascade.running.get(key, 0), 0)
        for key, pool in pools.items()
    )
    return best_sharing(cascade, pools).score - starts


def _allowed(
    cascade: CascadeProblem,
    pools: Mapping[PoolKey, PoolSize],
    ceilings: Mapping[str, int],
) -> bool:
    by_variant, by_class = Counter[str](), Counter[str]()
    for (variant, accelerator_class), pool in pools.items():
        by_variant[variant] += pool.replicas
        by_class[accelerator_class] += pool.replicas
    return (
        all(count <= ceilings.get(name, 0) for name, count in by_class.items())
        and all(by_class[name] >= bounds.min for name, bounds in cascade.workers.items())
        and all(by_variant[name] >= least for name, least in cascade.min_hosts.items())
        and all(variant in cascade.classes for variant in by_variant)
    )
