"""The places in which workers run. A driver turns starts, loads, drains and stops into processes or pods, and reports
the workers that exist. `Cluster` is what the planner's loop expects from every driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..snapshot import Move, PoolRef, Worker
from ..sources import PoolSubject, Subject


class ClusterFailed(Exception):
    """The cluster did not do what it was asked; it may succeed at the next tick."""


class Cluster(Protocol):
    """What the planner's loop needs from the place in which workers run."""

    async def inventory(self) -> Mapping[str, int] | None:
        """Accelerators by class; None if they are not known now."""

    async def workers(self) -> tuple[Worker, ...]:
        """The workers of all pools, with the weights that their servers host or are loading."""

    async def reconcile(self, subjects: Sequence[Subject], pools: Sequence[PoolSubject]) -> None:
        """Note which cascades and WorkerPools exist, and make what runs match their specs; what fails is tried again
        next time."""

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        """Begin the moves of one pool in order, and return without waiting; `workers` later shows their results.

        Where workers can host only one weights, a load replaces what is there, so unloads have nothing to do. A move
        that is asked for again has no further effect. Raises ClusterFailed if a move could not be begun.
        """

    async def close(self) -> None:
        """Release the cluster: what must end with this process is ended, and everything else continues to run."""
