"""Shares for pools that exist: the best mixture of rows that the ready replicas can serve within the objective.

This is the program of the allocation with fixed replicas. Its vertices are known beforehand (`mixtures`), so it takes
little enough time for every tick. With μ the rate of a replica, x the replicas of a pool and δ their reserve, a stage
carries, in requests per second,

    min(utilisation·Σ μx, Σ μ(x - δ)) - backlog

where the backlog is the rate that clears what waits there. Even with a large backlog, new prompts get a fifth of a
stage's capacity. Every chain is tried, and the one with the highest score is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .frontier import NO_TIERS, Mixture, Portion, TierShares, tier_rows
from .hull import HostSet, Hull
from .mixtures import NOTHING, Limits
from .problem import CascadeProblem, Placement, PoolKey, PoolSize
from .programs import LinearProgram, SolveStatus
from .sets import User, best_on_sets
from .stages import SHED_PRICE, Column, Role, Stages

LEAST_BESIDE = 0.2
"""The part of a stage's capacity that is always left to new prompts, however long the queue is."""


@dataclass(frozen=True)
class Sharing:
    """The mixture of rows for the prompts that are served (empty: none), and the share of the demand that is shed.

    ``value`` is the normalised quality of what is served. ``score`` is what was maximised: quality less the price of
    accelerator time and of shed load. ``stages`` belongs to the chosen chain.
    """

    mixture: Mixture
    shed: float
    value: float
    score: float
    stages: Stages | None = None

    @property
    def light_load(self) -> float:
        """Share of the demand that the light stage serves."""
        return (1 - self.shed) * sum(p.share * p.row.light_load for p in self.mixture)

    @property
    def heavy_load(self) -> float:
        """Share of the demand that the heavy stage serves."""
        return (1 - self.shed) * sum(p.share * p.row.heavy_load for p in self.mixture)


NOTHING_SERVED = Sharing((), 1.0, 0.0, -SHED_PRICE)


def best_sharing(
    problem: CascadeProblem, pools: Mapping[PoolKey, PoolSize], *, backlog: Mapping[str, float] | None = None
) -> Sharing:
    """The best mixture of any one chain on these pools; ``backlog`` is requests per second to clear, by variant.

    If it is better than the floor of the cascade, it is the mixture of least work that holds the floor.
    """
    best_score, best = -SHED_PRICE, None
    for stages in problem.stages:
        limits = _limits(problem, stages, pools, backlog or {})
        score = stages.mixer.score(limits)
        if score > best_score + NOTHING:
            best_score, best = score, (stages, limits)
    found = NOTHING_SERVED if best is None else _mixed(*best, score=best_score)
    if problem.floor is None or found.shed or found.value <= problem.floor:
        return found
    ways = (
        _least_work(stages, _limits(problem, stages, pools, backlog or {}), problem.floor) for stages in problem.stages
    )
    return min((way for way in ways if way is not None), key=lambda way: way[0], default=(0.0, found))[1]


def _least_work(stages: Stages, limits: Limits, floor: float) -> tuple[float, Sharing] | None:
    """The mixture of a chain that serves everything at a floor with least work, and its accelerator-seconds."""
    program = LinearProgram(integer=False)
    light_s, heavy_s = stages.image_s(Role.LIGHT), stages.image_s(Role.HEAVY)
    rows = {
        program.variable(value=-row.light_load * light_s - row.heavy_load * heavy_s): row for row in stages.chain.rows
    }
    light, heavy, direct = limits
    program.equal(dict.fromkeys(rows, 1.0), 1.0)
    program.at_most({share: row.light_load for share, row in rows.items()}, light)
    program.at_most({share: row.heavy_load for share, row in rows.items()}, heavy)
    program.at_most({share: row.direct for share, row in rows.items()}, direct)
    program.at_least({share: row.value for share, row in rows.items()}, floor)
    solution = program.solve()
    if solution.status is not SolveStatus.OPTIMAL:
        return None
    portions = [Portion(solution.values[share], row) for share, row in rows.items()]
    mixture = tuple(portion for portion in portions if portion.share > NOTHING)
    return -solution.objective, Sharing(mixture, 0.0, sum(p.share * p.row.value for p in mixture), floor, stages)


def shared_on(problem: CascadeProblem, placement: Placement, *, backlog: Mapping[str, float] | None = None) -> Sharing:
    """The same where workers host several weights: the best mixture of any chains."""
    if problem.hull is None:
        return best_sharing(problem, placement.pools, backlog=backlog)
    everything = problem.hull.hosts
    if all(hosts == everything for hosts in placement.hosts):
        return _fluid(problem, problem.hull, placement.workers, backlog or {})
    return _on_sets(problem, problem.hull, placement.hosts, backlog or {})


def _fluid(problem: CascadeProblem, hull: Hull, workers: float, backlog: Mapping[str, float]) -> Sharing:
    """What the time of all workers buys beside clearing a backlog."""
    if not workers or not hull.corners:
        return NOTHING_SERVED
    demand = max(problem.demand, NOTHING)
    clearing = sum(rate * hull.image_s(variant) for variant, rate in backlog.items())
    seconds = _beside(problem.heavy_utilisation * workers, clearing) / demand
    mixture, gain = hull.mixture(hull.in_time(seconds, workers=workers, demand=demand))
    shed = max(1 - problem.light_utilisation * workers / (demand * hull.least_s), 0.0) if hull.least_s else 0.0
    value = sum(p.share * p.row.value for p in mixture)
    return Sharing(mixture, shed if shed > NOTHING else 0.0, value, (1 - shed) * gain - SHED_PRICE * shed)


def _on_sets(
    problem: CascadeProblem, hull: Hull, hosts: Mapping[HostSet, float], backlog: Mapping[str, float]
) -> Sharing:
    """The same where workers host different sets of weights."""
    workers = {each: count for each, count in hosts.items() if count}
    count = sum(workers.values())
    if not count:
        return NOTHING_SERVED
    clearing = sum(rate * hull.image_s(variant) for variant, rate in backlog.items())
    utilisation = _beside(problem.heavy_utilisation * count, clearing) / count
    (found,) = best_on_sets([User(hull, hull.rows, max(problem.demand, NOTHING), utilisation)], workers)
    if not found.mixture:
        return NOTHING_SERVED
    value = sum(p.share * p.row.value for p in found.mixture)
    score = (1 - found.shed) * found.gain - SHED_PRICE * found.shed
    return Sharing(found.mixture, found.shed if found.shed > NOTHING else 0.0, value, score)


def _limits(
    problem: CascadeProblem, stages: Stages, pools: Mapping[PoolKey, PoolSize], backlog: Mapping[str, float]
) -> Limits:
    """Loads per prompt that the stages can carry; a pool that is too slow for the objective adds nothing."""
    per_prompt = 1 / max(problem.demand, NOTHING)
    light, _ = _carried(running_columns(stages, Role.LIGHT, pools), utilisation=problem.light_utilisation)
    heavy, direct = _carried(running_columns(stages, Role.HEAVY, pools), utilisation=problem.heavy_utilisation)
    if light:
        # If the heavy stage would be too late for a direct prompt, the light stage makes its image.
        direct = heavy
    limits = (
        _beside(light, backlog.get(stages.chain.light, 0.0)) * per_prompt,
        _beside(heavy, backlog.get(stages.chain.heavy, 0.0)) * per_prompt,
        direct * per_prompt,
    )
    if problem.tiers == NO_TIERS:
        return limits
    light, heavy, direct = (
        _beside(limit, load) / problem.tiers.rest
        for limit, load in zip(limits, tier_loads(problem.tiers, stages), strict=True)
    )
    return light, heavy, direct


def tier_loads(tiers: TierShares, stages: Stages) -> Limits:
    """What requests with a tier load the stages of a chain with, per prompt, as `Limits`."""
    role_of = {stages.chain.light: Role.LIGHT, stages.chain.heavy: Role.HEAVY}
    rows = tier_rows(stages.chain.rows, lambda name: stages.image_s(role_of[name]))
    if not rows:
        return 0.0, 0.0, 0.0
    asked = [(tiers.low, rows["low"]), (tiers.high, rows["high"])]
    return (
        sum(share * row.light_load for share, row in asked),
        sum(share * row.heavy_load for share, row in asked),
        sum(share * row.direct for share, row in asked),
    )


def _carried(running: Sequence[tuple[Column, int]], *, utilisation: float) -> tuple[float, float]:
    """Requests per second that a stage carries: in all, and of direct prompts if there is no light stage."""
    busy = overall = direct = 0.0
    for column, replicas in running:
        busy += utilisation * column.rate * replicas
        overall += column.rate * max(replicas - column.reserve, 0.0)
        direct += column.rate * max(replicas - column.direct_reserve, 0.0)
    return min(busy, overall), min(busy, direct)


def _beside(capacity: float, backlog: float) -> float:
    """The capacity that clearing a backlog leaves to new prompts; never 0, or no row could be served."""
    return max(capacity - backlog, LEAST_BESIDE * capacity)


def _mixed(stages: Stages, limits: Limits, *, score: float) -> Sharing:
    shares, shed = stages.mixer.shares(limits)
    served = sum(share for _, share in shares)
    if not served:
        return NOTHING_SERVED
    mixture = tuple(Portion(share / served, stages.chain.rows[number]) for number, share in shares)
    value = sum(p.share * p.row.value for p in mixture)
    return Sharing(mixture, shed if shed > NOTHING else 0.0, value, score, stages)


def running_columns(stages: Stages, role: Role, pools: Mapping[PoolKey, PoolSize]) -> list[tuple[Column, int]]:
    """The column and the replicas of each pool that serves a stage.

    The column is that of the pool's batch size, or of the next smaller size that has one, or else of the smallest.
    """
    found = []
    for key, columns in stages.pools(role).items():
        pool = pools.get(key)
        if pool is not None and pool.replicas:
            fitting = [column for column in columns if column.service.batch <= pool.batch]
            found.append((fitting[-1] if fitting else columns[0], pool.replicas))
    return found
