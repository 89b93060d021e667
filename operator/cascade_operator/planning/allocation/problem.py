"""The question to an allocation and its answer, as plain data.

`AllocationProblem` holds the cascades that compete and the accelerators that exist; `Allocation` is what one of the
cascades gets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason

from .frontier import NO_TIERS, Frontier, Mixture, TierShares
from .hull import HostSet, Hull
from .stages import ServiceLevel, Stages

PoolKey = tuple[str, str]
"""(variant, accelerator class)"""


@dataclass(frozen=True)
class PoolSize:
    """Replicas of a pool and their batch size."""

    replicas: int
    batch: int


@dataclass(frozen=True)
class Placement:
    """Workers by what they host, and by variant how many of them serve it, in which batches.

    A worker counts in the pool of each variant that it serves, except where dedicated workers of the same weights are
    divided among its variants. Of workers that several cascades share, ``hosts`` is the part of their time that one of
    them has.
    """

    hosts: Mapping[HostSet, float] = field(default_factory=dict)
    pools: Mapping[PoolKey, PoolSize] = field(default_factory=dict)

    @property
    def workers(self) -> float:
        """All workers, or all parts of them."""
        return sum(self.hosts.values())


@dataclass(frozen=True)
class WorkerBounds:
    """The fewest and most workers of a class, and what they may cost per hour in all (None: no bound)."""

    min: int
    max: int
    budget_per_hour: float | None = None

    def ceiling(self, price_per_hour: float | None) -> int:
        """The most workers at a price; none if there is a budget and the price is not known."""
        if self.budget_per_hour is None or price_per_hour == 0:
            return self.max
        return 0 if price_per_hour is None else min(self.max, math.floor(self.budget_per_hour / price_per_hour + 1e-9))


@dataclass(frozen=True)
class CascadeProblem:
    """One cascade: its rows and columns, its ``demand`` in requests per second, and its bounds on workers by class.

    ``min_hosts`` says how many workers always host a variant, and ``classes`` on which classes each variant may run.
    ``switch_prices`` says, by pool, how much normalised quality (1 = from the worst row to the best) a start or a
    change of model must gain. ``running`` and ``running_batch`` are the replicas and batch size of each pool now.
    ``hull`` is set if workers host several weights. ``sets`` are then the sets of weights that a worker may host: with
    one, which is all of them, only the number of workers is decided. ``running_hosts`` are the workers by what they
    host now. ``tiers`` are the shares of the requests that do not leave it to the plan; the hull has them, too.
    ``floor`` is the normalised quality to hold at the least cost; None: the best quality is wanted.
    It may be corrected by what was realised (`floors`); ``floor_held_from`` is the quality from which the wanted floor
    counts as held. ``level`` is what requests are promised.
    """

    ref: CascadeRef
    frontier: Frontier
    stages: tuple[Stages, ...]
    level: ServiceLevel
    demand: float
    light_utilisation: float
    heavy_utilisation: float
    min_hosts: Mapping[str, int]
    workers: Mapping[str, WorkerBounds]
    classes: Mapping[str, tuple[str, ...]]
    switch_prices: Mapping[PoolKey, float] = field(default_factory=dict)
    running: Mapping[PoolKey, int] = field(default_factory=dict)
    running_batch: Mapping[PoolKey, int] = field(default_factory=dict)
    weight: float = 1.0
    hull: Hull | None = None
    floor: float | None = None
    floor_held_from: float | None = None
    tiers: TierShares = NO_TIERS
    sets: tuple[HostSet, ...] = ()
    running_hosts: Mapping[HostSet, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AllocationProblem:
    """Cascades that share a cluster, its accelerators by class, and their prices per hour (absent: unknown)."""

    cascades: tuple[CascadeProblem, ...]
    accelerators: Mapping[str, int]
    prices_per_hour: Mapping[str, float]
    seed: int = 0


@dataclass(frozen=True)
class Fleet:
    """Workers of one class, and what they cost per hour."""

    workers: int
    cost_per_hour: float


@dataclass(frozen=True)
class Allocation:
    """What one cascade gets. ``shed`` is the share of its demand that cannot be served in time.

    ``verdict`` is OPTIMAL, DEGRADING (more answers than ``attainmentPercent`` leaves are degraded), QUALITY_BELOW_FLOOR
    (the floor cannot be held), QUALITY_SHED (there is room only for the rows of least load), LOAD_SHED (a part of the
    demand cannot be served), NO_CAPACITY (nothing can) or SOLVER_LIMIT (usable, but a limit cut the search short).
    ``all_heavy`` is what it would take to make every image by the best variant; None if no variant can. ``hosts`` has
    the workers by what they host, for cascades with a hull. ``binding`` says in words what limits the quality. ``gap``
    is the part of all cascades' weighted worth that a better allocation could add at most, by the solver's bound.
    """

    ref: CascadeRef
    mixture: Mixture
    pools: Mapping[PoolKey, PoolSize]
    shed: float
    value: float
    verdict: Reason
    switches: int = 0
    cost_per_hour: float = 0.0
    binding: tuple[str, ...] = ()
    gap: float = 0.0
    hosts: Mapping[HostSet, int] = field(default_factory=dict)
    all_heavy: Fleet | None = None
