"""What every simulated system is given, and what a run of it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cascade_operator.snapshot import Mobility

from ..frontier.profiles import LoadedProfile
from .outcomes import Outcomes
from .scores import Scores
from .traces import Trace
from .turns import Turns


@dataclass(frozen=True)
class Failure:
    """Accelerators that go away at a time and come back."""

    at_s: float
    for_s: float
    workers: int


@dataclass(frozen=True)
class Scenario:
    """One cascade, one trace, one seed.

    ``workers`` counts accelerators by class; ``switch_s`` is what every switch and start costs, None the profile's
    for a cluster that moves as ``mobility`` says. ``turns`` says how workers that host all variants share their time;
    None: they host one each, which the published systems always do.
    """

    profile: LoadedProfile
    trace: Trace
    scores: Scores
    workers: Mapping[str, int]
    objective_s: float
    seed: int
    switch_s: float | None = None
    mobility: Mobility = Mobility.IN_PLACE
    failures: tuple[Failure, ...] = ()
    turns: Turns | None = None

    @property
    def total_workers(self) -> int:
        return sum(self.workers.values())


@dataclass(frozen=True)
class PlanChange:
    """A plan that came into force: ``says`` in words, ``replicas`` by variant, the heavy share it asks for."""

    at_s: float
    says: str
    replicas: Mapping[str, int]
    heavy_share: float


@dataclass(frozen=True)
class Run:
    """A finished run. ``switches`` counts loads of a variant after time zero; ``figures`` are for the curious."""

    policy: str
    outcomes: Outcomes
    switches: int
    gpu_seconds: float
    changes: tuple[PlanChange, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[float], None]
"""Hears how much of a run is done, 0 to 1."""
