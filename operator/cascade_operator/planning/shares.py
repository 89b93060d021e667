"""Shares for pools that exist: the best mixture of rows that the ready replicas can serve within the objective.

This is the allocation's program with the replicas fixed, a linear one of a few rows, cheap enough for every
tick. A waiting backlog is charged to the pool where it waits, as requests per second to be cleared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .frontier import Mixture, Portion, Row
from .problem import CascadeProblem, PoolKey, PoolSize
from .programs import Outcome, Program
from .stages import Column, Role, Stages

SHED_PRICE = 100.0
"""Normalised quality lost with a request that is not served: above any gain in quality that its time could buy."""
LEAST_BESIDE = 0.2
"""The part of a stage's capacity that new prompts may count on, however much waits."""
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
            overall += column.rate * max(replicas - column.reserve, 0.0)
            direct += column.rate * max(replicas - column.direct_reserve, 0.0)
        result[role] = Carried(min(busy, overall), min(busy, direct))
    return result


def gains(problem: CascadeProblem, stages: Stages) -> list[float]:
    """What a prompt by each row is worth: its quality less the price of its accelerator time.

    The unit of that price is an image of the dearest heavy variant.
    """
    unit = max((s.image_s(Role.HEAVY) for s in problem.stages), default=0.0) or 1.0
    price = problem.prices.accelerator_time / unit
    return [row.value - price * seconds for row, seconds in zip(stages.chain.rows, stages.seconds, strict=True)]


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
    capacity = carried(
        stages, pools, utilisation={Role.LIGHT: problem.light_utilisation, Role.HEAVY: problem.heavy_utilisation}
    )
    demand = max(problem.demand, _NOTHING)
    light, heavy = capacity[Role.LIGHT], capacity[Role.HEAVY]
    limits = (
        _beside(light.overall, backlog.get(stages.chain.light, 0.0)) / demand,
        _beside(heavy.overall, backlog.get(stages.chain.heavy, 0.0)) / demand,
        heavy.direct / demand,
    )
    candidates = sorted(
        (
            (gain, row)
            for gain, row in zip(gains(problem, stages), stages.chain.rows, strict=True)
            if (light.overall > 0 or not row.light_load) and (heavy.overall > 0 or not row.heavy_load)
        ),
        key=lambda pair: -pair[0],
    )
    if not candidates:
        return NOTHING_SERVED
    best_gain, best = candidates[0]
    if all(load <= limit for load, limit in zip(_loads(best), limits, strict=True)):
        return Sharing((Portion(1.0, best),), 0.0, best.value, best_gain, stages, capacity)
    return _mixed(candidates, limits, stages, capacity)


def _beside(capacity: float, backlog: float) -> float:
    """What of a stage's capacity is left beside clearing a backlog; never nothing, or no row could be served."""
    return max(capacity - backlog, LEAST_BESIDE * capacity)


def _loads(row: Row) -> tuple[float, float, float]:
    """Loads per prompt that `limits` bound: on the light stage, on the heavy one, and directly on that."""
    return row.light_load, row.heavy_load, row.direct


def _mixed(
    candidates: Sequence[tuple[float, Row]],
    limits: tuple[float, float, float],
    stages: Stages,
    capacity: Mapping[Role, Carried],
) -> Sharing:
    """The best mixture within ``limits``, the loads per prompt that the stages can carry."""
    program = Program(integer=False)
    shares = {program.variable(value=gain): row for gain, row in candidates}
    shed = program.variable(value=-SHED_PRICE)
    program.equal(dict.fromkeys([*shares, shed], 1.0), 1.0)
    for index, limit in enumerate(limits):
        program.at_most({variable: _loads(row)[index] for variable, row in shares.items()}, limit)
    answer = program.solve()
    if answer.outcome is not Outcome.OPTIMAL:
        return NOTHING_SERVED
    chosen = [(answer.values[variable], row) for variable, row in shares.items() if answer.values[variable] > _NOTHING]
    served = sum(share for share, _ in chosen)
    if not served:
        return NOTHING_SERVED
    mixture = tuple(Portion(share / served, row) for share, row in chosen)
    value = sum(p.share * p.row.value for p in mixture)
    lost = answer.values[shed]
    return Sharing(mixture, lost if lost > _NOTHING else 0.0, value, answer.objective, stages, capacity)


def pool_column(columns: tuple[Column, ...], key: PoolKey, pool: PoolSize) -> Column | None:
    """The column that tells what a pool carries: of its batch, else of the next smaller (or smallest) considered."""
    own = sorted((c for c in columns if (c.variant, c.accelerator_class) == key), key=lambda c: c.service.batch)
    fitting = [c for c in own if c.service.batch <= pool.batch]
    return fitting[-1] if fitting else own[0] if own else None


def running_columns(columns: tuple[Column, ...], pools: Mapping[PoolKey, PoolSize]) -> list[tuple[Column, int]]:
    found = ((pool_column(columns, key, pool), pool.replicas) for key, pool in pools.items() if pool.replicas)
    return [(column, replicas) for column, replicas in found if column is not None]
