"""Which chains, and with one class which parts of them, can be the best: the program of an allocation holds no others.

No allocation lets a chain gain more than its bound: every accelerator in the better of its two roles, and where there
is one class, by how many of them are light and with all that must be paid (`splits`). What is bounded below what some
allocation at hand is worth is out.
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
"""Numbers of replicas, of those bounded highest, that are worked out for an allocation at hand."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Carries:
    """What 0, 1, 2, … accelerators of a class carry as one stage, per prompt of the demand; and at what batch.

    ``by_use`` and ``by_waiting`` are what each of the two limits of ``overall`` alone allows.
    """

    overall: Floats
    by_use: Floats
    by_waiting: Floats
    batch: npt.NDArray[np.int_]


@dataclass(frozen=True)
class Contender:
    """A chain, or a part of one, that may hold the best allocation.

    With one class, how many accelerators each of its stages then has at least and at most, and which of its columns and
    rows (by number) it may use. None leaves it open.
    """

    stages: Stages
    lights: tuple[int, int] | None = None
    heavies: tuple[int, int] | None = None
    columns: tuple[Column, ...] | None = None
    rows: tuple[int, ...] | None = None


def contenders(cascade: CascadeProblem, *, ceilings: Mapping[str, int], dues: Dues) -> tuple[Contender, ...]:
    """The chains that may be best on at most ``ceilings`` accelerators by class."""
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
    """`contenders` where there is one class: first by how many accelerators are light, then by how many are heavy."""
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
    """The worth of an allocation at hand: the best choice of the numbers bounded highest; -inf where it is none."""
    choices = chain.choices(cells.highest(TRIED))
    if choices is None:
        return -math.inf
    at = int(choices.worth.argmax())
    return float(choices.worth[at]) if _allowed(cascade, chain.pools(choices, at), ceilings) else -math.inf


def _net(cascade: CascadeProblem, running: Mapping[PoolKey, PoolSize], dues: Dues) -> float:
    """What the running pools are worth, with all that they pay."""
    paid = sum(dues.replica * pool.replicas + dues.doubling * math.log2(pool.batch) for pool in running.values())
    return _worth(cascade, running) - paid


def _bounded(
    cascade: CascadeProblem, stages: Stages, ceilings: Mapping[str, int]
) -> tuple[float, dict[PoolKey, PoolSize]]:
    """The most that a chain can gain, and pools that come near it."""
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
        # By vertex, and by the number of accelerators that are light: each vertex bounds the gain by its best splits.
        return np.asarray(prices[:, 1:2] * light + (prices[:, 2:3] + prices[:, 3:4]) * heavy[::-1])

    def gained(each: Iterable[Floats]) -> Floats:
        return np.asarray(prices[:, 0] + sum(split.max(axis=1) for split in each))

    # The limits hold for the sums over the classes: each alone bounds, the less of both by class does not.
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
    """Pools of one class from the replicas of each stage and what they carry."""
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
