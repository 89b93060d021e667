"""What the planner sees (a `Snapshot`) and what it asks for (`Action`): plain data between collect, decide and act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import Reason
from cascade_api.report import RouterReport
from cascade_api.status import CascadeStatus, WorkerPoolStatus
from cascade_api.workers import WorkerPool, Workers


@dataclass(frozen=True, order=True)
class PoolRef:
    """A pool of workers: one of a cascade's own, of that ``cascade``, or a WorkerPool of the namespace (None)."""

    namespace: str
    name: str
    cascade: str | None = None

    @property
    def owner(self) -> CascadeRef | None:
        """The cascade that it belongs to alone."""
        return None if self.cascade is None else CascadeRef(self.namespace, self.cascade)

    @classmethod
    def of(cls, cascade: CascadeRef, workers: Workers) -> PoolRef:
        """The pool that an entry of a cascade's `spec.workers` names."""
        return cls(cascade.namespace, workers.label, None if workers.pool is not None else cascade.name)


class WorkerState(str, Enum):
    """Starting (its server does not answer yet), ready, draining (it is to stop, and gets no new work), or failed."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class HostState(str, Enum):
    """What became of weights on a worker: loading, ready to make images, unloading, or failed."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True)
class Host:
    """Weights on a worker, by digest; ``since_s`` is when ``state`` began (Unix seconds)."""

    weights: str
    state: HostState
    since_s: float


@dataclass(frozen=True)
class Worker:
    """One accelerator with the Triton server on it, and the weights that it hosts.

    ``hosts`` is what its server says, not what it was told; they may belong to several cascades where these share the
    pool. ``in_flight`` counts credits in use by (cascade, variant that names the queue); None: unknown, so it does not
    count as idle. ``since_s`` is when ``state`` began (Unix seconds). ``problem`` says what is wrong with one
    that failed.
    """

    id: str
    pool: PoolRef
    accelerator_class: str
    endpoint: str
    state: WorkerState
    since_s: float
    hosts: tuple[Host, ...] = ()
    in_flight: Mapping[tuple[CascadeRef, str], int] | None = None
    problem: str = ""

    def hosting(self, *states: HostState) -> tuple[str, ...]:
        """The weights that it hosts in one of these states."""
        return tuple(host.weights for host in self.hosts if host.state in states)


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
    status: CascadeStatus | None = None
    complaint: tuple[Reason, str] | None = None


@dataclass(frozen=True)
class PoolView:
    """A WorkerPool, the last valid one where ``complaint`` says what is wrong now, and the status that it has."""

    pool: WorkerPool
    status: WorkerPoolStatus | None = None
    complaint: tuple[Reason, str] | None = None

    @property
    def ref(self) -> PoolRef:
        return PoolRef(self.pool.metadata.namespace, self.pool.metadata.name)


@dataclass(frozen=True)
class Snapshot:
    """Every cascade of one operator at one instant, with the workers of all pools.

    ``inventory`` has the accelerators by class (None: unknown). ``pools`` are the WorkerPools that exist.
    """

    cascades: tuple[CascadeView, ...]
    inventory: Mapping[str, int] | None
    workers: tuple[Worker, ...] = ()
    store_available: bool = True
    pools: tuple[PoolView, ...] = ()

    @property
    def free(self) -> Counter[str]:
        """Accelerators by class that no worker uses."""
        used = Counter(worker.accelerator_class for worker in self.workers)
        return Counter({name: max(count - used[name], 0) for name, count in (self.inventory or {}).items()})


@dataclass(frozen=True)
class StartWorker:
    """Start a worker of a pool on a free accelerator; it is to host these weights first."""

    pool: PoolRef
    accelerator_class: str
    weights: tuple[str, ...]


@dataclass(frozen=True)
class DrainWorker:
    """Prepare a worker for its end: it gets no new work, and keeps serving what it holds."""

    worker: str


@dataclass(frozen=True)
class StopWorker:
    """End a drained or failed worker, and free its accelerator."""

    worker: str


@dataclass(frozen=True)
class Load:
    """Load weights on a worker, which stays (also where it drains or failed). Loads and unloads run in order."""

    worker: str
    weights: str


@dataclass(frozen=True)
class Unload:
    """Take weights off a worker; the plan has already taken their credits away."""

    worker: str
    weights: str


Move = StartWorker | DrainWorker | StopWorker | Load | Unload


@dataclass(frozen=True)
class Publish:
    """Put a plan in force."""

    plan: Plan


@dataclass(frozen=True)
class SetStatus:
    """Report a cascade's state; sent only when it changed."""

    cascade: CascadeRef
    status: CascadeStatus


Action = Move | Publish | SetStatus


@dataclass(frozen=True)
class Diagnostics:
    """Why a cascade is planned as it is, for logs, `cascade plan` and metrics. None means: not decided in this tick.

    ``demand`` and ``pool_demand`` are the requests per second for which shares and pools were decided.
    ``planned_value``, ``shed`` (a share of the demand) and ``switches`` belong to the target; ``value``, ``shed_now``,
    ``latency_p99_s`` and ``degraded`` (a share of the answers) belong to the pools that are ready. Values are
    normalised quality: 0 is the worst row and 1 the best. ``binding`` says in words what limits the quality.
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
    degraded: float | None = None
    value: float | None = None
    shed_now: float | None = None
    realised_quality: float | None = None
    """Mean quality of the latest images, in units of the objective metric; known only where there is a floor."""

    def figures(self) -> dict[str, float]:
        """The figures that are known (not None), by name."""
        names = (each.name for each in fields(self) if each.name not in ("cascade", "reason", "binding"))
        return {name: value for name in names if (value := getattr(self, name)) is not None}
