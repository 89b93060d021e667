"""What an allocation is asked and what it answers, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason

from .frontier import Frontier, Mixture
from .hull import Hull
from .stages import Stages

PoolKey = tuple[str, str]
"""(variant, accelerator class); of workers that host several variants their names together (`snapshot.together`)."""


@dataclass(frozen=True)
class PoolSize:
    """Replicas of a pool and their batch size."""

    replicas: int
    batch: int


@dataclass(frozen=True)
class WorkerBounds:
    """Fewest and most workers of a class, and what they may cost per hour (None: no bound)."""

    min: int
    max: int
    budget_per_hour: float | None = None

    def ceiling(self, price_per_hour: float | None) -> int:
        """Most workers at a price; with a budget none where the price is not known."""
        if self.budget_per_hour is None or price_per_hour == 0:
            return self.max
        return 0 if price_per_hour is None else min(self.max, math.floor(self.budget_per_hour / price_per_hour + 1e-9))


@dataclass(frozen=True)
class CascadeProblem:
    """One cascade: its rows and columns, ``demand`` in requests per second, and its own bounds on workers by class.

    ``min_hosts`` is how many workers always host a variant, and ``classes`` where each variant may run.
    ``switch_prices`` is what a start or change of model must gain in normalised quality (1 = from the worst row to
    the best), by pool. ``hull`` is there where each worker hosts several variants: all, if there are no ``sets``, so
    that nothing but the number of workers is to be decided; else one of the sets.
    """

    ref: CascadeRef
    frontier: Frontier
    stages: tuple[Stages, ...]
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
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class AllocationProblem:
    """Cascades that share a cluster: accelerators by class, and prices per hour (absent: unknown)."""

    cascades: tuple[CascadeProblem, ...]
    accelerators: Mapping[str, int]
    prices_per_hour: Mapping[str, float]
    seed: int = 0


@dataclass(frozen=True)
class Allocation:
    """What one cascade gets. ``shed`` is the share of its demand that nothing can serve in time.

    ``verdict``: OPTIMAL, QUALITY_SHED (only the least load that the rows allow fits), LOAD_SHED, NO_CAPACITY
    (nothing at all) or SOLVER_LIMIT (usable, but a limit cut the search short). ``binding`` says in words what
    holds the quality down. ``gap`` is the part of all cascades' weighted worth that a better allocation might
    still add, by the solver's bound.
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
