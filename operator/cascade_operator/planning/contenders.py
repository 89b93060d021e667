"""Which chains can be the best one, so that the program of an allocation need not hold the others.

No allocation lets a chain gain more than its bound: every accelerator in the better of its two roles, nothing paid
for starts. A chain whose bound is below what some allocation at hand is worth is out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
    """What 0, 1, 2, … accelerators of a class carry as one stage, per prompt of the demand; and at what batch."""

    overall: Floats
    direct: Floats
    batch: npt.NDArray[np.int_]


def contenders(
    cascade: CascadeProblem, *, ceilings: Mapping[str, int], prices: Mapping[str, float], dues: float
) -> tuple[Stages, ...]:
    """The chains that may be best on at most ``ceilings`` accelerators by class.

    Args:
        prices: per hour by class, for the cascade's budget.
        dues: the most that any allocation can cost beside the price of its starts.
    """
    bounded = [_bounded(cascade, stages, ceilings) for stages in cascade.stages]
    ranked = sorted(bounded, key=lambda pair: -pair[0])
    running = {key: PoolSize(n, cascade.running_batch.get(key, 1)) for key, n in cascade.running.items() if n}
    at_hand = [pools for pools in (running, *(pools for _, pools in ranked[:2])) if pools]
    worth = max(
        (_worth(cascade, pools) for pools in at_hand if _allowed(cascade, pools, ceilings, prices)), default=None
    )
    if worth is None:
        return cascade.stages
    return tuple(s for s, (bound, _) in zip(cascade.stages, bounded, strict=True) if bound >= worth - dues)


def _bounded(
    cascade: CascadeProblem, stages: Stages, ceilings: Mapping[str, int]
) -> tuple[float, dict[PoolKey, PoolSize]]:
    """The most that a chain can gain, and pools that come near it."""
    prices = stages.mixer.prices
    gained, splits = prices[:, :1].copy(), []
    for name, count in ceilings.items():
        light = _carries(cascade, stages, Role.LIGHT, name, count)
        heavy = _carries(cascade, stages, Role.HEAVY, name, count)
        # By vertex, and by the number of accelerators that are light.
        split = prices[:, 1:2] * light.overall + prices[:, 2:3] * heavy.overall[::-1]
        split += prices[:, 3:4] * heavy.direct[::-1]
        splits.append((name, count, split, light, heavy))
        gained = gained + (split if len(ceilings) == 1 else split.max(axis=1, keepdims=True))
    # With one class every split can be tried; with several, each vertex bounds the gain by its own best splits.
    least = gained.min(axis=0)
    bound, vertex = float(least.max()), int(gained[:, int(least.argmax())].argmin())
    pools = {}
    for name, count, split, light, heavy in splits:
        lights = int(least.argmax() if len(ceilings) == 1 else split[vertex].argmax())
        for variant, number, stage in (
            (stages.chain.light, lights, light),
            (stages.chain.heavy, count - lights, heavy),
        ):
            if stage.overall[number]:
                pools[variant, name] = PoolSize(min(number, cascade.bounds[variant].max), int(stage.batch[number]))
    return bound, pools


def _carries(cascade: CascadeProblem, stages: Stages, role: Role, accelerator_class: str, count: int) -> _Carries:
    variant = stages.chain.light if role is Role.LIGHT else stages.chain.heavy
    busy = cascade.light_utilisation if role is Role.LIGHT else cascade.heavy_utilisation
    replicas = np.minimum(np.arange(count + 1), cascade.bounds[variant].max)
    overall, direct = np.zeros(count + 1), np.zeros(count + 1)
    batch = np.ones(count + 1, dtype=int)
    for column in stages.pools(role).get((variant, accelerator_class), ()):
        rate = column.rate / max(cascade.demand, NOTHING)
        load = np.minimum(busy * rate * replicas, rate * (replicas - column.reserve))
        batch[load > overall] = column.service.batch
        overall = np.maximum(overall, load)
        direct = np.maximum(direct, np.minimum(busy * rate * replicas, rate * (replicas - column.direct_reserve)))
    return _Carries(overall, direct, batch)


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
