"""The input of every simulated system (`Scenario`), and the result of a run of it (`Run`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cascade_api.settings import AcceleratorClass

from ..frontier.profiles import LoadedProfile
from .outcomes import Outcomes
from .scores import Scores
from .traces import Trace
from .turns import Turns


@dataclass(frozen=True)
class Failure:
    """Accelerators that fail at a time, and come back later."""

    at_s: float
    for_s: float
    workers: int


@dataclass(frozen=True)
class NoNodes:
    """A time in which no Node comes; those that were asked for come after it."""

    at_s: float
    for_s: float


@dataclass(frozen=True)
class Scenario:
    """One cascade, one trace, one seed.

    ``workers`` has the accelerators by class. ``switch_s`` is the seconds of every switch and start; None means those
    of the profile. ``turns`` says how workers that host all variants share their time; with None a worker hosts one
    variant, as it always does in the published systems. ``no_worse_than`` is the quality floor of the product's policy,
    None that of the profile's file. ``sizes`` has the parts of the requests by the size that they name; empty: none
    names one. With ``blind`` only workers know the size: planner and router take every image for one of the default
    size. ``elastic`` are classes whose Nodes come when they are asked for, but not while there are ``no_nodes``.
    """

    profile: LoadedProfile
    trace: Trace
    scores: Scores
    workers: Mapping[str, int]
    objective_s: float
    seed: int
    switch_s: float | None = None
    failures: tuple[Failure, ...] = ()
    turns: Turns | None = None
    no_worse_than: str | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    blind: bool = False
    elastic: tuple[AcceleratorClass, ...] = ()
    no_nodes: tuple[NoNodes, ...] = ()

    @property
    def total_workers(self) -> int:
        return sum(self.workers.values())


@dataclass(frozen=True)
class PlanChange:
    """A plan that came into force: in words (``says``), with its ``replicas`` by variant and its heavy share."""

    at_s: float
    says: str
    replicas: Mapping[str, int]
    heavy_share: float


@dataclass(frozen=True)
class Run:
    """A finished run. ``switches`` counts loads of a variant after time zero; ``figures`` holds further numbers."""

    policy: str
    outcomes: Outcomes
    switches: int
    gpu_seconds: float
    changes: tuple[PlanChange, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[float], None]
"""Called with the part of a run that is done, 0 to 1."""
