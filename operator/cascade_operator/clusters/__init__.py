"""The places in which replicas run. A driver turns starts, drains and stops into processes or pods, and reports the
replicas that exist. `Cluster` is what the planner's loop expects from every driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cascade_api.names import CascadeRef

from ..snapshot import Drain, Mobility, Replica, Start, Stop
from ..sources import Subject


class ClusterFailed(Exception):
    """The cluster did not do what it was asked; it may succeed at the next tick."""


class Cluster(Protocol):
    """What the planner's loop needs from the place in which replicas run."""

    mobility: Mobility
    """How this cluster makes an accelerator serve another variant."""
    hosts_several: bool
    """Whether its workers can host several variants."""

    async def inventory(self) -> Mapping[str, int] | None:
        """Accelerators by class; None if they are not known now."""

    async def replicas(self, ref: CascadeRef) -> tuple[Replica, ...]:
        """The replicas of a cascade; the ``variant`` of a replica is the one that it serves or is loading."""

    async def reconcile(self, subjects: Sequence[Subject]) -> None:
        """Note which cascades exist, and make what runs match their specs; what fails is tried again next time."""

    async def act(self, moves: Sequence[Start | Drain | Stop]) -> None:
        """Begin the moves of one cascade, and return without waiting for them; `replicas` later shows their results.

        A move that is asked for again has no further effect. Raises ClusterFailed if a move could not be begun.
        """

    async def close(self) -> None:
        """Release the cluster: what must end with this process is ended, and everything else continues to run."""
