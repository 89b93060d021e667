"""The planner in a closed loop with a fake cluster and a fake clock: workers take time to drain and to load."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cascade_api.cascade import DiffusionCascade
from cascade_api.plan import Plan
from cascade_api.profile import CascadeProfile
from cascade_api.settings import PlannerSettings
from cascade_api.status import CascadeStatus
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Decision, Planner
from cascade_operator.planning.plans import needed
from cascade_operator.snapshot import (
    CascadeView,
    Demand,
    DrainWorker,
    Host,
    HostState,
    Load,
    Publish,
    SetStatus,
    Snapshot,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)

from .factories import DISCRIMINATOR_MS, HEAVY_MS, LIGHT_MS, make_cascade, make_profile

START = 1_700_000_000.0


@dataclass
class ClosedLoop:
    """A local cluster of ``slots`` accelerators that obeys the planner, and arrivals at ``rate(seconds)``.

    ``late`` counts requests that waited longer than the objective, ``history`` keeps the plans. ``unserved``
    collects the instants at which a row in force lacked a worker, ``abandoned`` those at which the last worker of a
    variant got no more credits while rows in force still sent requests there, and ``cut`` those at which weights were
    unloaded under their requests.
    """

    rate: Callable[[float], float]
    slots: int = 2
    cascade: DiffusionCascade = field(default_factory=make_cascade)
    profile: CascadeProfile | None = field(default_factory=make_profile)
    switch_s: float = 0.35
    drain_s: float = 0.15
    efficiency: float = 1.0
    """How much a worker serves, relative to the profile."""
    seed: int = 1
    now: float = START
    demand_known: bool = True
    inventory_known: bool = True
    store_available: bool = True

    def __post_init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.plan: Plan | None = None
        self.memory = Memory()
        self.status: CascadeStatus | None = None
        self.counts: dict[int, int] = {}
        self.queues: dict[str, float] = {}
        self.late = 0.0
        self.history: list[tuple[float, Plan]] = []
        self.switches: list[tuple[float, str]] = []
        self.unserved: list[tuple[float, str]] = []
        self.abandoned: list[tuple[float, str]] = []
        self.cut: list[tuple[float, str]] = []
        self._names = {variant.weights.digest: variant.name for variant in self.cascade.spec.variants}
        self._left_s: dict[tuple[str, str], float] = {}
        """Since when a worker gets no credits for a variant."""
        self.decisions: list[Decision] = []
        self._planner = Planner(PlannerSettings())
        self._random = random.Random(self.seed)
        self._next = self.now
        self._carried = 0.0

    @property
    def elapsed(self) -> float:
        return self.now - START

    @property
    def ready(self) -> list[str]:
        """Variants that workers serve, sorted; one that several workers serve counts as often."""
        return sorted(
            self._names[digest]
            for worker in self.workers.values()
            if worker.state is WorkerState.READY
            for digest in worker.hosting(HostState.READY)
            if (worker.id, self._names[digest]) not in self._left_s
        )

    def run(self, seconds: float, *, step_s: float = 0.05) -> ClosedLoop:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now = round(self.now + step_s, 6)
            self._arrive(step_s)
            self._serve(step_s)
            self._settle()
            if self.now >= self._next:
                self._decide()
            self._check()
        return self

    def fail(self, worker_id: str) -> None:
        """A worker dies."""
        worker = self.workers[worker_id]
        hosts = tuple(replace(host, state=HostState.FAILED, since_s=self.now) for host in worker.hosts)
        self._put(worker, state=WorkerState.FAILED, since_s=self.now, hosts=hosts)

    def _arrive(self, step_s: float) -> None:
        # Binomial thinning of a fine grid: close to Poisson, and cheap.
        mean = self.rate(self.elapsed) * step_s
        arrived = sum(self._random.random() < mean / 50 for _ in range(50))
        if arrived:
            self.counts[int(self.now)] = self.counts.get(int(self.now), 0) + arrived

    def _serve(self, step_s: float) -> None:
        """Update the queues as fluids: arrivals of a variant by the rows in force, less what its replicas serve."""
        if self.plan is None:
            return
        light = sum(row.share * (1 - row.direct) for row in self.plan.rows)
        for variant, part, seconds in (
            ("light", light, (LIGHT_MS + DISCRIMINATOR_MS) / 1000),
            ("heavy", sum(row.share * row.heavy_share for row in self.plan.rows), HEAVY_MS / 1000),
        ):
            capacity = self.ready.count(variant) * self.efficiency / seconds
            depth = self.queues.get(variant, 0.0) + (self.rate(self.elapsed) * part - capacity) * step_s
            # What waits longer than the objective is degraded where a light image may stand in, else refused.
            most = capacity * self.cascade.spec.objective.latency_s
            stands_in = variant == "heavy" and light > 0 and self.cascade.spec.policy.overload == "degrade"
            self.late += max(0.0, depth - most) if capacity and not stands_in else 0.0
            self.queues[variant] = min(max(depth, 0.0), most) if capacity else max(depth, 0.0)

    def _settle(self) -> None:
        for worker in list(self.workers.values()):
            hosts = tuple(
                replace(host, state=HostState.READY, since_s=self.now)
                if host.state is HostState.LOADING and self.now - host.since_s >= self.switch_s
                else host
                for host in worker.hosts
            )
            if hosts != worker.hosts:
                self._put(worker, state=WorkerState.READY, hosts=hosts)
            worker = self.workers[worker.id]
            names = {self._names[digest] for digest in worker.hosting(HostState.READY)}
            since = {name: self._left_s.get((worker.id, name), self.now) for name in names}
            if worker.state is WorkerState.DRAINING:
                since = dict.fromkeys(names, worker.since_s)
            # A variant that gets credits has work in hand, and one that gets none ends it after a while.
            used = {(self.cascade.ref, name): 0 if self.now - at >= self.drain_s else 3 for name, at in since.items()}
            self._put(worker, in_flight=used)

    def _decide(self) -> None:
        view = CascadeView(
            cascade=self.cascade,
            profile=self.profile,
            plan=self.plan,
            demand=Demand(tuple(sorted(self.counts.items()))) if self.demand_known else None,
            queue_depths={f"{variant}.cpu": int(depth) for variant, depth in self.queues.items()},
            reports=(),
            status=self.status,
        )
        snapshot = Snapshot(
            (view,),
            {"cpu": self.slots} if self.inventory_known else None,
            tuple(self.workers.values()),
            store_available=self.store_available,
        )
        decision = self._planner.decide(snapshot, self.memory, self.now)
        self.decisions.append(decision)
        before = self.plan
        self.memory = Memory.from_json(decision.memory.to_json())
        self._next = decision.next_at
        for action in decision.actions:
            match action:
                case Publish(plan):
                    self.plan = plan
                    self.history.append((self.elapsed, plan))
                    self._follow(plan, before)
                case StartWorker(pool, accelerator_class, weights):
                    free = next(f"cpu-{i}" for i in range(self.slots) if f"cpu-{i}" not in self.workers)
                    self.workers[free] = Worker(
                        id=free,
                        pool=pool,
                        accelerator_class=accelerator_class,
                        endpoint=f"127.0.0.1:{9000 + int(free[4:])}",
                        state=WorkerState.STARTING,
                        since_s=self.now,
                        in_flight={},
                    )
                    for digest in weights:
                        self._load(free, digest)
                case Load(worker_id, digest):
                    self._load(worker_id, digest)
                case Unload(worker_id, digest):
                    worker = self.workers[worker_id]
                    failed = worker.state is WorkerState.FAILED
                    if not failed and (worker.in_flight or {}).get((self.cascade.ref, self._names[digest])):
                        self.cut.append((self.elapsed, self._names[digest]))
                    self._put(worker, hosts=tuple(host for host in worker.hosts if host.weights != digest))
                    self._left_s.pop((worker_id, self._names[digest]), None)
                case DrainWorker(worker_id):
                    self._put(self.workers[worker_id], state=WorkerState.DRAINING, since_s=self.now)
                case StopWorker(worker_id):
                    del self.workers[worker_id]
                    self._left_s = {key: at for key, at in self._left_s.items() if key[0] != worker_id}
                case SetStatus(_, status):
                    self.status = status

    def _follow(self, plan: Plan, before: Plan | None) -> None:
        """Routers take a plan: note who gets no credits any more."""
        was = set(self.ready)
        left = {
            (worker.id, name)
            for worker in plan.workers
            for name, count in worker.credits.items()
            if not count or worker.state == "draining"
        }
        self._left_s = {key: self._left_s.get(key, self.now) for key in left}
        # What was sent by the plan before may still wait there.
        gone = (was - set(self.ready)) & (needed(before.rows) if before is not None else set())
        self.abandoned += [(self.elapsed, name) for name in sorted(gone)]

    def _load(self, worker_id: str, digest: str) -> None:
        worker = self.workers[worker_id]
        others = tuple(host for host in worker.hosts if host.weights != digest)
        if len(others) == len(worker.hosts) or worker.state is WorkerState.FAILED:
            self.switches.append((self.elapsed, f"{worker_id}={self._names[digest]}"))
            others = (*others, Host(digest, HostState.LOADING, self.now))
        else:
            others = worker.hosts
        started = worker.state is WorkerState.STARTING
        self._put(worker, hosts=others, state=WorkerState.STARTING if started else WorkerState.READY)

    def _put(self, worker: Worker, **changes: object) -> None:
        self.workers[worker.id] = replace(worker, **changes)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.plan is None:
            return
        missing = needed(self.plan.rows) - set(self.ready)
        if missing:
            self.unserved.append((self.elapsed, ", ".join(sorted(missing))))
