"""The operator in a simulation: it makes snapshots for the product's planner, and carries out the planner's actions on
the simulated accelerators."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_api.cascade import DiffusionCascade
from cascade_api.plan import Plan
from cascade_api.profile import CascadeProfile
from cascade_api.report import RouterReport
from cascade_api.status import CascadeStatus
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Planner
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
    apart,
    together,
)

from .events import Events
from .runs import Failure
from .timings import SimulatedTimings
from .workers import Fleet, Worker, WorkerJob

EPOCH: Final = 1_760_000_000
"""Unix time of the simulation's zero."""
REST_S: Final = 0.1
"""The operator rests at least this long between two decisions, however often it is woken."""
DETECT_S: Final = 0.5
"""From the loss of an accelerator until the operator sees it."""
DEMAND_S: Final = 120
"""Seconds of arrivals that are kept."""


@dataclass(frozen=True)
class RouterHooks:
    """What the operator sees of the routers, and how it hands them a plan."""

    demand: Mapping[int, int]
    """Arrivals by Unix second."""
    depths: Callable[[], Mapping[str, int]]
    in_use: Callable[[Worker], int]
    report: Callable[[], RouterReport]
    publish: Callable[[Plan], None]
    failed: Callable[[Worker, list[WorkerJob]], None]
    """Called when a worker is lost, with the jobs that it had in hand."""


class Control:
    """The planner's loop over one cascade."""

    def __init__(
        self,
        *,
        events: Events,
        fleet: Fleet,
        timings: SimulatedTimings,
        cascade: DiffusionCascade,
        profile: CascadeProfile,
        planner: Planner,
        mobility: Mobility,
        rng: random.Random,
    ) -> None:
        self._events = events
        self._fleet = fleet
        self._timings = timings
        self._cascade = cascade
        self._profile = profile
        self._rng = rng
        self._planner = planner
        self._mobility = mobility
        self._memory = Memory()
        self._states: dict[str, tuple[ReplicaState, float]] = {}
        """The state of each worker that is a replica, and when it began."""
        self._unseen: set[str] = set()
        """Workers that are lost, which the operator does not yet know."""
        self._status: CascadeStatus | None = None
        self._variants: dict[str, str] = {}
        """The variants that lost workers served."""
        self._turn = 0
        self._last_s = -float("inf")
        self.plan: Plan | None = None
        self.decisions = 0

    def start(self, router: RouterHooks, *, failures: Sequence[Failure]) -> None:
        """Begin to decide."""
        self._router = router
        for failure in failures:
            self._events.at(failure.at_s, self._fail, failure)
        self._schedule(self._events.now)

    def loaded(self, worker: Worker) -> None:
        """A worker is ready with its variant."""
        if worker.id in self._states:
            self._states[worker.id] = (ReplicaState.READY, self._events.now)
            self._wake()

    def _wake(self) -> None:
        self._schedule(max(self._events.now, self._last_s + REST_S))

    def _schedule(self, when: float) -> None:
        self._turn += 1
        self._events.at(when, self._decide, self._turn)

    def _decide(self, turn: int) -> None:
        if turn != self._turn:
            return
        now = self._events.now
        self._last_s = now
        self.decisions += 1
        decision = self._planner.decide(self._snapshot(), self._memory, EPOCH + now)
        self._memory = decision.memory
        self._schedule(max(decision.next_at - EPOCH, now + REST_S))
        for action in decision.actions:
            match action:
                case Publish(plan):
                    self.plan = plan
                    self._router.publish(plan)
                case SetStatus():
                    self._status = action.status
                case Start():
                    self._start(action)
                case Drain():
                    self._states[action.replica_id] = (ReplicaState.DRAINING, now)
                case Stop():
                    worker = self._fleet.workers[action.replica_id]
                    self._states.pop(worker.id, None)
                    self._fleet.unload(worker)

    def _start(self, start: Start) -> None:
        if start.replica_id is not None:
            worker = self._fleet.workers[start.replica_id]
            hosted = apart(worker.variant or "")
            new = [name for name in apart(start.variant) if name not in hosted] or apart(start.variant)
            seconds = self._timings.switch_s(together(new), worker.accelerator_class)
            jobs = self._fleet.unload(worker)
            if jobs:
                self._router.failed(worker, jobs)
        else:
            free = (
                w
                for w in self._fleet.workers.values()
                if w.id not in self._states and not w.lost and w.accelerator_class == start.accelerator_class
            )
            found = next(free, None)
            if found is None:
                return
            worker = found
            seconds = self._timings.start_s(start.variant, start.accelerator_class)
        self._states[worker.id] = (ReplicaState.STARTING, self._events.now)
        self._fleet.load(worker, start.variant, seconds)

    def _snapshot(self) -> Snapshot:
        replicas = tuple(self._replica(worker) for worker in self._fleet.workers.values() if worker.id in self._states)
        oldest = int(EPOCH + self._events.now) - DEMAND_S
        counts = tuple((second, count) for second, count in self._router.demand.items() if second >= oldest)
        view = CascadeView(
            cascade=self._cascade,
            profile=self._profile,
            plan=self.plan,
            demand=Demand(counts),
            queue_depths=self._router.depths(),
            reports=(self._router.report(),),
            replicas=replicas,
            status=self._status,
        )
        inventory = Counter(
            w.accelerator_class for w in self._fleet.workers.values() if not w.lost or w.id in self._unseen
        )
        return Snapshot((view,), dict(inventory), self._mobility, hosts_several=True)

    def _replica(self, worker: Worker) -> Replica:
        state, since_s = self._states[worker.id]
        return Replica(
            id=worker.id,
            accelerator_class=worker.accelerator_class,
            endpoint=f"{worker.id}:8001",
            variant=self._variants[worker.id] if worker.lost else worker.variant or "",
            state=state,
            since_s=EPOCH + since_s,
            in_flight=self._router.in_use(worker),
        )

    # --- failures

    def _fail(self, failure: Failure) -> None:
        alive = [worker for worker in self._fleet.workers.values() if not worker.lost]
        for worker in self._rng.sample(alive, min(failure.workers, len(alive))):
            self._unseen.add(worker.id)
            self._variants[worker.id] = worker.variant or ""
            self._router.failed(worker, self._fleet.lose(worker))
            self._events.at(self._events.now + DETECT_S, self._detect, worker)
            self._events.at(self._events.now + failure.for_s, self._return, worker)

    def _detect(self, worker: Worker) -> None:
        self._unseen.discard(worker.id)
        if worker.lost:
            self._states.pop(worker.id, None)
            self._wake()

    def _return(self, worker: Worker) -> None:
        worker.lost = False
        self._unseen.discard(worker.id)
        self._states.pop(worker.id, None)
        self._wake()


def in_words(plan: Plan) -> str:
    """A plan in words, for reports."""
    pools = " + ".join(f"{len(p.ready)}×{p.variant}@{p.batch}" for p in plan.pools if p.ready)
    rows = ", ".join(f"{r.share:.0%} r={r.direct:.1f} d={r.escalation:.1f}" for r in plan.rows)
    return f"{pools}; {plan.rows[0].path}: {rows} ({plan.reason})"
