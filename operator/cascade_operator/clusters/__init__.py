"""Where replicas live: each driver turns starts, drains and stops into processes or pods and reports what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cascade_api.names import CascadeRef

from ..snapshot import Drain, Mobility, Replica, Start, Stop
from ..sources import Subject


class ClusterFailed(Exception):
    """The cluster did not do as it was told; it may at the next tick."""


class Cluster(Protocol):
    """What the planner's loop needs of the place that replicas run in."""

    mobility: Mobility
    """How a replica comes to serve another variant here."""

    async def inventory(self) -> Mapping[str, int] | None:
        """Accelerators by class; None where that is not known now."""

    async def replicas(self, ref: CascadeRef) -> tuple[Replica, ...]:
        """The replicas of a cascade; ``variant`` is what one serves or is loading."""

    async def reconcile(self, subjects: Sequence[Subject]) -> None:
        """Take note of all cascades, and bring what runs in line with their specs; what fails is tried next time."""

    async def act(self, moves: Sequence[Start | Drain | Stop]) -> None:
        """Begin the moves of one cascade and return; idempotent, and what comes of them shows in `replicas`.

        Raises ClusterFailed where one could not be begun.
        """

    async def close(self) -> None:
        """Let go of the cluster: what ends with this process is ended, the rest runs on."""
