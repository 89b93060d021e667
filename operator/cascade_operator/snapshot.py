"""What the planner sees (a `Snapshot`) and what it asks for (`Action`): plain data between collect, decide and act."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import Reason
from cascade_api.report import RouterReport
from cascade_api.status import CascadeStatus

TOGETHER: Final = "+"
"""Between the names of variants that one worker serves; no name holds it."""


def together(variants: Iterable[str]) -> str:
    """What a worker serves, as one name: of one variant its own, of several all theirs in the order of the alphabet."""
    return TOGETHER.join(sorted(variants))


def apart(name: str) -> tuple[str, ...]:
    """The variants that a worker serves: the inverse of `together`."""
    return tuple(name.split(TOGETHER))


class ReplicaState(str, Enum):
    """The states of a replica: starting → ready → draining → (stopped, or starting with another variant)."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True)
class Replica:
    """One accelerator with the Triton server on it.

    ``variant`` is the variant that it serves or is loading; several are one name (`together`). ``in_flight`` is the
    number of credits in use (None: unknown, so it does not count as drained). ``since_s`` is when ``state`` began (Unix
    seconds).
    """

    id: str
    accelerator_class: str
    endpoint: str
    variant: str
    state: ReplicaState
    since_s: float
    in_flight: int | None = None

    @property
    def pool(self) -> tuple[str, str]:
        """The pool that it belongs to: (variant that it serves or is loading, accelerator class)."""
        return self.variant, self.accelerator_class

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that it serves or is loading."""
        return apart(self.variant)


@dataclass(frozen=True)
class Demand:
    """Arrivals per whole second, oldest first, as (Unix second, count); seconds without arrivals are absent."""

    counts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CascadeView:
    """Everything that is known about one cascade; None means unknown.

    ``complaint`` is (reason, message) if the resources are invalid now; ``cascade`` and ``profile`` are then the last
    valid ones.
    """

    cascade: DiffusionCascade
    profile: CascadeProfile | None
    plan: Plan | None
    demand: Demand | None
    queue_depths: Mapping[str, int] | None
    reports: tuple[RouterReport, ...]
    replicas: tuple[Replica, ...]
    status: CascadeStatus | None = None
    complaint: tuple[Reason, str] | None = None


class Mobility(Enum):
    """How a cluster makes an accelerator serve another variant, and so how long a move takes there."""

    IN_PLACE = "in place"
    """The running server loads the other model, which takes `spec.startup[].loadMillis` of the profile."""
    NEW_SERVER = "new server"
    """A new server replaces the old one, as with pods, which takes `spec.startup[].coldSeconds`."""


@dataclass(frozen=True)
class Snapshot:
    """Every cascade of one operator at one instant.

    ``inventory`` has the accelerators by class (None: unknown). ``mobility`` says how moves happen on this cluster, and
    ``hosts_several`` whether its workers can host several variants; only the driver knows these, so the planner assumes
    nothing else.
    """

    cascades: tuple[CascadeView, ...]
    inventory: Mapping[str, int] | None
    mobility: Mobility
    store_available: bool = True
    hosts_several: bool = False


@dataclass(frozen=True)
class Start:
    """Start serving ``variant``: on a free accelerator, or in place of the replica ``replica_id``, which is drained.

    ``variant`` may be several (`together`).
    """

    cascade: CascadeRef
    replica_id: str | None
    accelerator_class: str
    variant: str


@dataclass(frozen=True)
class Drain:
    """Give a replica no new work; it keeps serving what it holds."""

    cascade: CascadeRef
    replica_id: str


@dataclass(frozen=True)
class Stop:
    """Remove a drained or failed replica, and free its accelerator."""

    cascade: CascadeRef
    replica_id: str


@dataclass(frozen=True)
class Publish:
    """Put a plan in force."""

    plan: Plan


@dataclass(frozen=True)
class SetStatus:
    """Report a cascade's state; sent only when it changed."""

    cascade: CascadeRef
    status: CascadeStatus


Action = Start | Drain | Stop | Publish | SetStatus


@dataclass(frozen=True)
class Diagnostics:
    """Why a cascade is planned as it is, for logs, `cascade plan` and metrics. None means: not decided in this tick.

    ``demand`` and ``pool_demand`` are the requests per second for which shares and pools were decided.
    ``planned_value``, ``shed`` (a share of the demand) and ``switches`` belong to the target; ``value``, ``shed_now``
    and ``latency_p99_s`` belong to the pools that are ready. Values are normalised quality: 0 is the worst row and 1
    the best. ``binding`` says in words what limits the quality.
    """

    cascade: CascadeRef
    reason: str
    binding: tuple[str, ...] = ()
    demand: float | None = None
    pool_demand: float | None = None
    planned_value: float | None = None
    shed: float | None = None
    switches: int | None = None
    latency_p99_s: float | None = None
    value: float | None = None
    shed_now: float | None = None

    def figures(self) -> dict[str, float]:
        """The figures that are known (not None), by name."""
        names = (each.name for each in fields(self) if each.name not in ("cascade", "reason", "binding"))
        return {name: value for name in names if (value := getattr(self, name)) is not None}
