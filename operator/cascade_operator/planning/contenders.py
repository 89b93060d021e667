"""Which chains, and with one class which splits of it, can be the best: the program of an allocation holds no others.

No allocation lets a chain gain more than its bound: every accelerator in the better of its two roles, and where there
is one class, by how many of them are light and with what must be started paid for. What is bounded below what some
allocation at hand is worth is out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .mixtures import NOTHING
from .problem import CascadeProblem, PoolKey, PoolSize
from .shares import best_sharing
from .stages import Role, Stages

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Carries:
    """What 0, 1, 2, … accelerators of a class carry as one stage, per prompt of the demand; and at what batch.

    ``by_use`` and ``by_waiting`` are what each of the two limits of ``overall`` alone allows.
    """

    overall: Floats
    by_use: Floats
    by_waiting: Floats
    direct: Floats
    batch: npt.NDArray[np.int_]


@dataclass(frozen=True)
class Contender:
    """A chain that may be the best one; with one class, the fewest and most accelerators that are then light."""

    stages: Stages
    lights: tuple[int, int] | None = None


def contenders(
    cascade: CascadeProblem, *, ceilings: Mapping[str, int], prices: Mapping[str, float], dues: float
) -> tuple[Contender, ...]:
    """The chains that may be best on at most ``ceilings`` accelerators by class.

    Args:
        prices: per hour by class, for the cascade's budget.
        dues: the most that any allocation can cost beside the price of its starts.
    """
    bounded = [_bounded(cascade, stages, ceilings) for stages in cascade.stages]
    ranked = sorted(bounded, key=lambda pair: -float(pair[0].max()))
    running = {key: PoolSize(n, cascade.running_batch.get(key, 1)) for key, n in cascade.running.items() if n}
    at_hand = [pools for pools in (running, *(pools for _, pools in ranked[:2])) if pools]
    worth = max(
        (_worth(cascade, pools) for pools in at_hand if _allowed(cascade, pools, ceilings, prices)), default=None
    )
    if worth is None:
        return tuple(Contender(stages) for stages in cascade.stages)
    found = []
    for stages, (bounds, _) in zip(cascade.stages, bounded, strict=True):
        splits = np.flatnonzero(bounds >= worth - dues)
        if len(splits):
            found.append(Contender(stages, (int(splits[0]), int(splits[-1])) if len(ceilings) == 1 else None))
    return tuple(found)


def _bounded(
    cascade: CascadeProblem, stages: Stages, ceilings: Mapping[str, int]
) -> tuple[Floats, dict[PoolKey, PoolSize]]:
    """The most that a chain can gain, with one class by how many accelerators are light; and pools that come near it.

    With one class what must be started is paid for.
    """
    if len(ceilings) == 1:
        return _bounded_by_split(cascade, stages, *next(iter(ceilings.items())))
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
    return np.array([bound]), pools


def _bounded_by_split(
    cascade: CascadeProblem, stages: Stages, name: str, count: int
) -> tuple[Floats, dict[PoolKey, PoolSize]]:
    """`_bounded` where class ``name`` is the only one."""
    prices = stages.mixer.prices
    light = _carries(cascade, stages, Role.LIGHT, name, count)
    heavy = _carries(cascade, stages, Role.HEAVY, name, count)
    lights = np.arange(count + 1)
    heavies = count - lights

    def gained(heavies: npt.NDArray[np.int_]) -> Floats:
        direct = heavy.overall[heavies]
        direct[0] = heavy.direct[heavies[0]]  # without a light stage to stand in
        loads = prices[:, 1:2] * light.overall + prices[:, 2:3] * heavy.overall[heavies] + prices[:, 3:4] * direct
        return np.asarray((prices[:, :1] + loads).min(axis=0))

    running = [cascade.running.get((variant, name), 0) for variant in (stages.chain.light, stages.chain.heavy)]
    price = [cascade.switch_prices.get((variant, name), 0.0) for variant in (stages.chain.light, stages.chain.heavy)]
    if not any(cascade.running.values()):
        price = [0.0, 0.0]
    # Either no heavy replica is started, or at least one is paid for.
    started = np.where(heavies > running[1], gained(heavies) - price[1], -np.inf)
    bounds = np.maximum(started, gained(np.minimum(heavies, running[1])) if price[1] else gained(heavies))
    bounds = bounds - price[0] * np.maximum(lights - running[0], 0)
    best = int(bounds.argmax())
    return bounds, _pools(cascade, stages, name, (best, light), (count - best, heavy))


def _pools(
    cascade: CascadeProblem, stages: Stages, name: str, light: tuple[int, _Carries], heavy: tuple[int, _Carries]
) -> dict[PoolKey, PoolSize]:
    """Pools of one class from the replicas of each stage and what they carry."""
    return {
        (variant, name): PoolSize(min(number, cascade.bounds[variant].max), int(stage.batch[number]))
        for variant, (number, stage) in ((stages.chain.light, light), (stages.chain.heavy, heavy))
        if stage.overall[number]
    }


def _carries(cascade: CascadeProblem, stages: Stages, role: Role, accelerator_class: str, count: int) -> _Carries:
    variant = stages.chain.light if role is Role.LIGHT else stages.chain.heavy
    busy = cascade.light_utilisation if role is Role.LIGHT else cascade.heavy_utilisation
    replicas = np.minimum(np.arange(count + 1), cascade.bounds[variant].max)
    overall, direct, by_use, by_waiting = (np.zeros(count + 1) for _ in range(4))
    batch = np.ones(count + 1, dtype=int)
    for column in stages.pools(role).get((variant, accelerator_class), ()):
        rate = column.rate / max(cascade.demand, NOTHING)
        in_use, waiting = busy * rate * replicas, rate * (replicas - column.reserve)
        load = np.minimum(in_use, waiting)
        batch[load > overall] = column.service.batch
        overall = np.maximum(overall, load)
        by_use, by_waiting = np.maximum(by_use, in_use), np.maximum(by_waiting, waiting)
        direct = np.maximum(direct, np.minimum(in_use, rate * (replicas - column.direct_reserve)))
    return _Carries(overall, by_use, by_waiting, direct, batch)


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
    prices: Mapping[str, float],
) -> bool:
    by_variant, by_class = Counter[str](), Counter[str]()
    for (variant, accelerator_class), pool in pools.items():
        by_variant[variant] += pool.replicas
        by_class[accelerator_class] += pool.replicas
    cost = sum(prices.get(name, 0.0) * count for name, count in by_class.items())
    return (
        all(count <= ceilings.get(name, 0) for name, count in by_class.items())
        and all(bounds.min <= by_variant[name] <= bounds.max for name, bounds in cascade.bounds.items())
        and all(variant in cascade.bounds for variant in by_variant)
        and (cascade.budget_per_hour is None or cost <= cascade.budget_per_hour)
    )
