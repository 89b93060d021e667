"""The input and output of a published planner, and the constants that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from ..outcomes import DrawnRow

BATCHES: Final = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Level:
    """Workers of one variant. The first level gets the arrivals; each later one gets what the level before rejects."""

    variant: str
    workers: int
    batch: int


@dataclass(frozen=True)
class SolvedPlan:
    """A solved plan.

    ``row`` says which shares go direct and escalate between the two levels; without a chain (proteus, clipper) every
    level gets arrivals. ``planned`` is the quality that the system expects.
    """

    levels: tuple[Level, ...]
    row: DrawnRow
    planned: float

    @property
    def is_chain(self) -> bool:
        return bool(self.row.chain)


@dataclass(frozen=True)
class Signals:
    """What the controllers measure once a second, already smoothed and with their margins.

    ``demand`` is the number of queries in the system, which they use as a rate; ``queue_s`` is the waiting time by
    variant.
    """

    demand: float
    queue_s: Mapping[str, float]
    queued: Mapping[str, float]
    """Waiting queries by variant."""


Spread = Literal["random", "shortest-queue"]


class PublishedPlanner(Protocol):
    """A published system's planner; ``smoothing`` and ``margin`` turn the queries in the system into its demand."""

    name: str
    smoothing: float
    margin: float
    drop_after: float
    """Age, in objectives, at which a query is dropped when its turn comes."""
    spread: Spread
    """How a worker of a model is chosen for a query."""

    def start(self) -> SolvedPlan:
        """The plan that is used until the first solved one, which comes after five seconds."""
        ...

    def solve(self, signals: Signals) -> SolvedPlan:
        """The plan for these signals."""
        ...


class PublishedTimes:
    """Seconds of a batch as published: 0.9·b·e beyond batch 1 where no larger batch was measured.

    ``quantum_s`` is the unit to which the HADIS planner rounds: a tenth of a second at its objective of 6 s.
    """

    def __init__(self, measured_s: Mapping[tuple[str, int], float], *, quantum_s: float) -> None:
        self._measured_s = measured_s
        self._quantum_s = quantum_s

    def batch_s(self, variant: str, batch: int) -> float:
        """Seconds of a batch, without the discriminator."""
        measured = self._measured_s.get((variant, batch))
        return measured if measured is not None else 0.9 * batch * self._measured_s[variant, 1]

    def believed_s(self, variant: str, batch: int) -> float:
        """The same as the HADIS planner uses it: rounded, but never to 0."""
        return self._quantum_s * max(round(self.batch_s(variant, batch) / self._quantum_s + 1e-9), 1)
