"""What an allocation is asked and what it answers, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cascade_api.cascade import ReplicaBounds
from cascade_api.names import CascadeRef
from cascade_api.reasons import Reason

from .frontier import Frontier, Mixture
from .stages import Stages

PoolKey = tuple[str, str]
"""(variant, accelerator class)."""


@dataclass(frozen=True)
class PoolSize:
    """Replicas of a pool and their batch size."""

    replicas: int
    batch: int


@dataclass(frozen=True)
class CascadeProblem:
    """One cascade: its rows and columns, ``demand`` in requests per second, and its own ceilings.

    ``switch_prices`` is what a start or change of model must gain in normalised quality (1 = from the worst row to
    the best), by pool.
    """

    ref: CascadeRef
    frontier: Frontier
    stages: tuple[Stages, ...]
    demand: float
    light_utilisation: float
    heavy_utilisation: float
    bounds: Mapping[str, ReplicaBounds]
    accelerators: Mapping[str, int]
    classes: Mapping[str, tuple[str, ...]]
    switch_prices: Mapping[PoolKey, float] = field(default_factory=dict)
    budget_per_hour: float | None = None
    running: Mapping[PoolKey, int] = field(default_factory=dict)
    running_batch: Mapping[PoolKey, int] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Problem:
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
