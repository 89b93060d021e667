"""Where replicas live: each driver turns starts, drains and stops into processes or pods and reports what is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cascade_api.names import CascadeRef

from ..snapshot import Drain, Replica, Start, Stop


class Cluster(Protocol):
    """What the planner's loop needs of the place that replicas run in."""

    async def inventory(self) -> Mapping[str, int] | None:
        """Accelerators by class; None where that is not known now."""

    async def replicas(self, ref: CascadeRef) -> tuple[Replica, ...]:
        """The replicas of a cascade; ``variant`` is what one serves or is loading."""

    async def act(self, action: Start | Drain | Stop) -> None:
        """Begin an action and return; idempotent, and what comes of it shows in `replicas`."""

    async def close(self) -> None:
        """Take everything away that this driver started."""
