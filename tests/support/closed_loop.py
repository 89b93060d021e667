"""The planner in a closed loop with a fake cluster and a fake clock: replicas take time to drain and to switch."""

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
    Drain,
    Mobility,
    Publish,
    Replica,
    ReplicaState,
    SetStatus,
    Snapshot,
    Start,
    Stop,
)

from .factories import DISCRIMINATOR_MS, HEAVY_MS, LIGHT_MS, make_cascade, make_profile

START = 1_700_000_000.0


@dataclass
class ClosedLoop:
    """A local cluster of ``slots`` accelerators that obeys the planner, and arrivals at ``rate(seconds)``.

    ``late`` counts requests that waited longer than the objective, ``history`` keeps the plans. ``unserved``
    collects the instants at which a row in force lacked a ready replica, ``abandoned`` those at which a pool lost
    its last ready replica while rows in force still sent requests there.
    """

    rate: Callable[[float], float]
    slots: int = 2
    cascade: DiffusionCascade = field(default_factory=make_cascade)
    profile: CascadeProfile | None = field(default_factory=make_profile)
    switch_s: float = 0.35
    drain_s: float = 0.15
    efficiency: float = 1.0
    """How much a replica serves, relative to the profile."""
    seed: int = 1
    now: float = START
    demand_known: bool = True
    inventory_known: bool = True
    store_available: bool = True

    def __post_init__(self) -> None:
        self.replicas: dict[str, Replica] = {}
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
        """Variants of the ready replicas, sorted."""
        return sorted(r.variant for r in self.replicas.values() if r.state is ReplicaState.READY)

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

    def fail(self, replica_id: str) -> None:
        """A replica dies."""
        self._put(self.replicas[replica_id], state=ReplicaState.FAILED, since_s=self.now)

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
        for replica in list(self.replicas.values()):
            age = self.now - replica.since_s
            if replica.state is ReplicaState.STARTING and age >= self.switch_s:
                self._put(replica, state=ReplicaState.READY, since_s=self.now)
            if replica.state is ReplicaState.DRAINING and age >= self.drain_s:
                self._put(replica, in_flight=0)

    def _decide(self) -> None:
        view = CascadeView(
            cascade=self.cascade,
            profile=self.profile,
            plan=self.plan,
            demand=Demand(tuple(sorted(self.counts.items()))) if self.demand_known else None,
            queue_depths={f"{variant}.cpu": int(depth) for variant, depth in self.queues.items()},
            reports=(),
            replicas=tuple(self.replicas.values()),
            status=self.status,
        )
        snapshot = Snapshot(
            (view,),
            {"cpu": self.slots} if self.inventory_known else None,
            Mobility.IN_PLACE,
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
                case Start(_, None, accelerator_class, variant):
                    free = next(f"cpu-{i}" for i in range(self.slots) if f"cpu-{i}" not in self.replicas)
                    self._start(free, accelerator_class, variant)
                case Start(_, str(replica_id), accelerator_class, variant):
                    held = self.replicas[replica_id]
                    assert held.state is ReplicaState.FAILED or held.in_flight == 0, "started on a busy replica"
                    self._start(replica_id, accelerator_class, variant)
                case Drain(_, replica_id):
                    # What was sent by the plan before may still wait for this pool.
                    variant = self.replicas[replica_id].variant
                    if self.ready.count(variant) == 1 and before is not None and variant in needed(before.rows):
                        self.abandoned.append((self.elapsed, variant))
                    self._put(self.replicas[replica_id], state=ReplicaState.DRAINING, since_s=self.now, in_flight=3)
                case Stop(_, replica_id):
                    del self.replicas[replica_id]
                case SetStatus(_, status):
                    self.status = status

    def _start(self, replica_id: str, accelerator_class: str, variant: str) -> None:
        self.switches.append((self.elapsed, f"{replica_id}={variant}"))
        self.replicas[replica_id] = Replica(
            id=replica_id,
            accelerator_class=accelerator_class,
            endpoint=f"127.0.0.1:{9000 + int(replica_id[4:])}",
            variant=variant,
            state=ReplicaState.STARTING,
            since_s=self.now,
            in_flight=0,
        )

    def _put(self, replica: Replica, **changes: object) -> None:
        self.replicas[replica.id] = replace(replica, **changes)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.plan is None:
            return
        missing = needed(self.plan.rows) - set(self.ready)
        if missing:
            self.unserved.append((self.elapsed, ", ".join(sorted(missing))))
