"""What the planner sees and what it asks for: plain data between collect, decide and act."""

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
    """Life of a replica: starting → ready → draining → (stopped, or starting with another variant)."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True)
class Replica:
    """One accelerator with the Triton server on it.

    ``variant`` is what it serves or is loading, which may be several (`together`). ``in_flight`` counts credits in use
    (None: unknown, so not drained); ``since_s`` is when ``state`` began.
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
        """The pool that it belongs to, (variant, accelerator class), by what it serves or is loading."""
        return self.variant, self.accelerator_class

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that it serves or is loading."""
        return apart(self.variant)


@dataclass(frozen=True)
class Demand:
    """Arrivals per whole second, oldest first, as (Unix second, count); absent seconds had none."""

    counts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CascadeView:
    """Everything known of one cascade; None means unknown, and unknown holds the last plan.

    ``complaint`` is (reason, message) where the resources say something invalid: cascade and profile are then the
    last that were valid.
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
    """How a cluster has an accelerator serve another variant, and so what a move costs there."""

    IN_PLACE = "in place"
    """The server that runs there loads the other model: `spec.startup[].loadMillis` of the profile."""
    NEW_SERVER = "new server"
    """A new server is started in place of the old one, as a pod is: `spec.startup[].coldSeconds`."""


@dataclass(frozen=True)
class Snapshot:
    """Every cascade of one operator at one instant.

    ``inventory`` counts accelerators by class (None: unknown). ``mobility`` says how this cluster moves, and
    ``hosts_several`` whether its workers can host the weights of several variants: the driver's own truth, which
    nothing else may assume.
    """

    cascades: tuple[CascadeView, ...]
    inventory: Mapping[str, int] | None
    mobility: Mobility
    store_available: bool = True
    hosts_several: bool = False


@dataclass(frozen=True)
class Start:
    """Have ``variant`` served: on a free accelerator, or by ``replica_id`` in place once it is drained.

    It may be several (`together`).
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
    """Take a drained or failed replica away and free its accelerator."""

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
    """Why a cascade is planned as it is, for logs, `cascade plan` and metrics; None: not decided in this tick.

    ``demand`` and ``pool_demand`` are requests per second that shares and pools were decided for. ``planned_value`` and
    ``shed`` (share of the demand), with the ``switches`` on the way there, belong to the pools that were decided for;
    ``value``, ``shed_now`` and ``latency_p99_s`` to those that are ready. Values are quality, 0 the worst row and 1 the
    best. ``binding`` says in words what holds quality down.
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
        """The figures that are known, by name."""
        names = (each.name for each in fields(self) if each.name not in ("cascade", "reason", "binding"))
        return {name: value for name in names if (value := getattr(self, name)) is not None}
