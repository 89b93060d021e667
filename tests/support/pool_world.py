"""Cascades on one WorkerPool, planned tick after tick, whose workers do what they are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.settings import AcceleratorClass, PlannerSettings
from cascade_api.status import CascadeStatus, WorkerPoolStatus
from cascade_api.workers import WorkerPool
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.snapshot import (
    Action,
    Demand,
    DrainWorker,
    Host,
    HostState,
    Load,
    PoolRef,
    PoolView,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)

from .factories import make_cascade, make_profile, make_view

NOW = 1_760_000_000.0
POOL = PoolRef("default", "slots")
WEIGHTS_MIB = 100


def pool_of(**spec: Any) -> WorkerPool:
    document = {"class": "cpu", "workers": {"max": 4}, **spec}
    return WorkerPool.model_validate({"metadata": {"name": "slots"}, "spec": document})


def on_pool(name: str, *, pool: WorkerPool, most: int = 4, **fields: Any) -> DiffusionCascade:
    """A cascade of two weights of its own on the pool."""
    model = {kind: {"source": f"hf://test/{name}-{kind}", "revision": "1"} for kind in ("light", "heavy")}
    workers = [{"pool": "slots", "max": most}]
    cascade = make_cascade(name, workers=workers, light__model=model["light"], heavy__model=model["heavy"], **fields)
    return cascade.model_copy(update={"spec": cascade.spec.on_pools({"slots": pool.spec})})


@dataclass
class PoolWorld:
    """Cascades on a pool whose workers do what they are told, at once or, if they are ``slow``, by the next tick."""

    cascades: list[DiffusionCascade]
    pool: WorkerPool = field(default_factory=pool_of)
    rates: Mapping[str, float] = field(default_factory=dict)
    """Requests per second by cascade; 10 where it is absent."""
    accelerators: int = 4
    slow: bool = False
    holds: int = 0
    """Weights that a worker has memory for; 0: all."""
    missing_profiles: Sequence[str] = ()
    workers: dict[str, Worker] = field(default_factory=dict)
    plans: dict[CascadeRef, Plan] = field(default_factory=dict)
    statuses: dict[CascadeRef, CascadeStatus] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    moves: list[Action] = field(default_factory=list)
    now: float = NOW
    pool_status: WorkerPoolStatus | None = None

    def __post_init__(self) -> None:
        memory_mib = self.holds * WEIGHTS_MIB
        self._planner = Planner(
            PlannerSettings(), classes=[AcceleratorClass(name="cpu", resource="cpu", memory_mi_b=memory_mib)]
        )
        weighs = [{"variant": name, "class": "cpu", "restMiB": WEIGHTS_MIB} for name in ("light", "heavy")]
        self._profile = make_profile(memory=weighs)

    def tick(self, times: int = 1) -> Decision:
        for _ in range(times):
            self._progress()
            decision = self._planner.decide(self._snapshot(), self.memory, self.now)
            self.memory = Memory.from_json(decision.memory.to_json())
            self.pool_status = decision.pool_statuses.get(POOL, self.pool_status)
            for action in decision.actions:
                self._obey(action)
            self.now = decision.next_at
        return decision

    def _progress(self) -> None:
        """What was loading is ready now."""
        for name, worker in self.workers.items():
            hosts = tuple(
                replace(host, state=HostState.READY, since_s=self.now) if host.state is HostState.LOADING else host
                for host in worker.hosts
            )
            state = WorkerState.READY if worker.state is WorkerState.STARTING else worker.state
            self.workers[name] = replace(worker, hosts=hosts, state=state)

    def _snapshot(self) -> Snapshot:
        views = []
        for cascade in self.cascades:
            rate = self.rates.get(cascade.metadata.name, 10.0)
            second = int(self.now)
            counts = ((second - 60 + s, int(rate * (s + 1)) - int(rate * s)) for s in range(60))
            view = make_view(
                cascade=cascade,
                profile=self._profile,
                demand=Demand(tuple(counts)),
                plan=self.plans.get(cascade.ref),
                queue_depths={},
            )
            if cascade.metadata.name in self.missing_profiles:
                view = replace(view, profile=None)
            views.append(replace(view, status=self.statuses.get(cascade.ref)))
        workers = tuple(self.workers.values())
        return Snapshot(
            tuple(views), {"cpu": self.accelerators}, workers, pools=(PoolView(self.pool, self.pool_status),)
        )

    def _obey(self, action: Action) -> None:
        match action:
            case Publish(plan):
                self.plans[plan.ref] = plan
                return
            case SetStatus(ref, status):
                self.statuses[ref] = status
                return
            case StartWorker():
                name = f"worker-{len(self.moves)}"
                hosts = tuple(Host(digest, self._begun, self.now) for digest in action.weights)
                state, since_s = (WorkerState.STARTING if self.slow else WorkerState.READY), self.now
                self.workers[name] = Worker(name, action.pool, "cpu", f"{name}:8001", state, since_s, hosts, {})
            case DrainWorker(name):
                self.workers[name] = replace(self.workers[name], state=WorkerState.DRAINING, since_s=self.now)
            case StopWorker(name):
                del self.workers[name]
            case Load(name, weights):
                worker = self.workers[name]
                host = Host(weights, self._begun, self.now)
                self.workers[name] = replace(worker, state=WorkerState.READY, hosts=(*worker.hosts, host))
            case Unload(name, weights):
                worker = self.workers[name]
                left = tuple(host for host in worker.hosts if host.weights != weights)
                self.workers[name] = replace(worker, hosts=left)
        self.moves.append(action)

    @property
    def _begun(self) -> HostState:
        return HostState.LOADING if self.slow else HostState.READY

    def plan_of(self, name: str) -> Plan:
        return self.plans[CascadeRef("default", name)]

    @property
    def hosted(self) -> Counter[str]:
        """Workers by the weights that they host."""
        return Counter(digest for worker in self.workers.values() for digest in worker.hosting(HostState.READY))


def weights_of(cascade: DiffusionCascade) -> set[str]:
    return {variant.weights.digest for variant in cascade.spec.variants}


def three(pool: WorkerPool | None = None, **fields: Any) -> list[DiffusionCascade]:
    """Three cascades on a pool."""
    return [on_pool(name, pool=pool or pool_of(), **fields) for name in ("anna", "bert", "carl")]
