"""Shares for pools that exist: the best mixture of rows that the ready replicas can serve within the objective.

This is the allocation's program with the replicas fixed, a linear one of a few rows, cheap enough for every
tick. A waiting backlog is charged to the pool where it waits, as requests per second to be cleared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .frontier import Mixture, Portion, gpu_seconds
from .problem import CascadeProblem, PoolKey, PoolSize
from .programs import Outcome, Program
from .stages import Column, Role, Stages

SHED_PRICE = 100.0
"""Normalised quality lost with a request that is not served: above any gain in quality that its time could buy."""
_NOTHING = 1e-6


@dataclass(frozen=True)
class Carried:
    """Requests per second that a stage can carry: in all, and of those that cannot be degraded."""

    overall: float
    direct: float


@dataclass(frozen=True)
class Sharing:
    """A mixture over what is served (empty: nothing can be), and the share of the demand that is shed.

    ``score`` is what was maximised: quality less the price of accelerator time and of shed load.
    """

    mixture: Mixture
    shed: float
    value: float
    score: float
    stages: Stages | None = None
    capacity: Mapping[Role, Carried] = field(default_factory=dict)

    @property
    def light_load(self) -> float:
        """Share of the demand that the light stage serves."""
        return (1 - self.shed) * sum(p.share * p.row.light_load for p in self.mixture)

    @property
    def heavy_load(self) -> float:
        """Share of the demand that the heavy stage serves."""
        return (1 - self.shed) * sum(p.share * p.row.heavy_load for p in self.mixture)


NOTHING_SERVED = Sharing((), 1.0, 0.0, -SHED_PRICE)


def carried(
    stages: Stages, pools: Mapping[PoolKey, PoolSize], *, utilisation: Mapping[Role, float]
) -> dict[Role, Carried]:
    """What each stage of a chain can carry on these pools; a pool too slow for the objective adds nothing."""
    result = {}
    for role in Role:
        busy = overall = direct = 0.0
        for column, replicas in running_columns(stages.of(role), pools):
            busy += utilisation[role] * column.rate * replicas
            overall += column.rate * (replicas - column.reserve)
            direct += column.rate * (replicas - column.direct_reserve)
        result[role] = Carried(max(min(busy, overall), 0.0), max(min(busy, direct), 0.0))
    return result


def accelerator_seconds(stages: Stages) -> tuple[float, float]:
    """Accelerator seconds per image of the light and the heavy stage, each at its best batch and class."""
    light, heavy = ([1 / column.rate for column in stages.of(role)] for role in Role)
    return min(light, default=0.0), min(heavy, default=0.0)


def time_unit(problem: CascadeProblem) -> float:
    """Accelerator seconds per image of the dearest heavy variant: the unit of the price of accelerator time."""
    return max((accelerator_seconds(s)[1] for s in problem.stages), default=0.0) or 1.0


def best_sharing(
    problem: CascadeProblem, pools: Mapping[PoolKey, PoolSize], *, backlog: Mapping[str, float] | None = None
) -> Sharing:
    """The best mixture of one chain on these pools; ``backlog`` is requests per second to clear, by variant."""
    best = NOTHING_SERVED
    for stages in problem.stages:
        sharing = _share(problem, stages, pools, backlog or {})
        if sharing.score > best.score + _NOTHING:
            best = sharing
    return best


def _share(
    problem: CascadeProblem, stages: Stages, pools: Mapping[PoolKey, PoolSize], backlog: Mapping[str, float]
) -> Sharing:
    utilisation = {Role.LIGHT: problem.light_utilisation, Role.HEAVY: problem.heavy_utilisation}
    capacity = carried(stages, pools, utilisation=utilisation)
    rows = [
        row
        for row in stages.chain.rows
        if (capacity[Role.LIGHT].overall > 0 or not row.light_load)
        and (capacity[Role.HEAVY].overall > 0 or not row.heavy_load)
    ]
    if not rows:
        return NOTHING_SERVED
    light_s, heavy_s = accelerator_seconds(stages)
    unit = time_unit(problem)
    demand = max(problem.demand, _NOTHING)

    program = Program(integer=False)
    shares = []
    for row in rows:
        seconds = gpu_seconds((Portion(1.0, row),), light_s=light_s, heavy_s=heavy_s)
        shares.append(program.variable(value=row.value - problem.prices.accelerator_time * seconds / unit))
    shed = program.variable(value=-SHED_PRICE)
    program.equal(dict.fromkeys([*shares, shed], 1.0), 1.0)
    light = max(capacity[Role.LIGHT].overall - backlog.get(stages.chain.light, 0.0), 0.0)
    heavy = max(capacity[Role.HEAVY].overall - backlog.get(stages.chain.heavy, 0.0), 0.0)
    program.at_most({v: r.light_load for v, r in zip(shares, rows, strict=True)}, light / demand)
    program.at_most({v: r.heavy_load for v, r in zip(shares, rows, strict=True)}, heavy / demand)
    program.at_most({v: r.direct for v, r in zip(shares, rows, strict=True)}, capacity[Role.HEAVY].direct / demand)
    answer = program.solve()
    if answer.outcome is not Outcome.OPTIMAL:
        return NOTHING_SERVED
    served = sum(answer.values[v] for v in shares)
    if served <= _NOTHING:
        return NOTHING_SERVED
    chosen = [(answer.values[v], row) for v, row in zip(shares, rows, strict=True) if answer.values[v] > _NOTHING]
    total = sum(share for share, _ in chosen)
    mixture = tuple(Portion(share / total, row) for share, row in chosen)
    value = sum(p.share * p.row.value for p in mixture)
    lost = max(0.0, 1 - served)
    return Sharing(mixture, lost if lost > _NOTHING else 0.0, value, answer.objective, stages, capacity)


def pool_column(columns: tuple[Column, ...], key: PoolKey, pool: PoolSize) -> Column | None:
    """The column that tells what a pool carries: of its batch, else of the next smaller (or smallest) considered."""
    own = sorted((c for c in columns if (c.variant, c.accelerator_class) == key), key=lambda c: c.service.batch)
    fitting = [c for c in own if c.service.batch <= pool.batch]
    return fitting[-1] if fitting else own[0] if own else None


def running_columns(columns: tuple[Column, ...], pools: Mapping[PoolKey, PoolSize]) -> list[tuple[Column, int]]:
    found = ((pool_column(columns, key, pool), pool.replicas) for key, pool in pools.items() if pool.replicas)
    return [(column, replicas) for column, replicas in found if column is not None]
