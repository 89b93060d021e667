"""The operator in a simulation: it makes snapshots of all cascades for the product's planner, and carries out the
planner's actions on the simulated accelerators."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Plan
from cascade_api.profile import CascadeProfile
from cascade_api.report import RouterReport
from cascade_api.settings import REOPEN_FACTOR, AcceleratorClass
from cascade_api.status import CascadeStatus
from cascade_api.workers import WorkerPool
from cascade_operator.clusters.kubernetes.inventory import patience_s
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.planner import Planner
from cascade_operator.snapshot import (
    CascadeView,
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

from .events import Events
from .runs import Failure, NoNodes
from .shared_workers import SharedFleet, SharedWorker
from .timings import SimulatedTimings
from .workers import WorkerJob

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
    """What the operator sees of the routers of a cascade, and how it hands them a plan."""

    demand: Mapping[int, int]
    """Arrivals by Unix second."""
    depths: Callable[[], Mapping[str, int]]
    in_use: Callable[[SharedWorker], Mapping[str, int]]
    report: Callable[[], RouterReport]
    publish: Callable[[Plan], None]


@dataclass
class Controlled:
    """A cascade that is planned: its resources, how long its variants take, its routers, and its present state."""

    cascade: DiffusionCascade
    profile: CascadeProfile
    timings: SimulatedTimings
    router: RouterHooks
    plan: Plan | None = None
    status: CascadeStatus | None = None


class Control:
    """The planner's loop.

    Args:
        cascades: what is planned.
        pools: the WorkerPools that they name.
        elastic: classes whose Nodes do not exist: one comes for each worker that is started, and goes with it.
        no_nodes: when none comes.
        failed: is called when a worker loses jobs that it had in hand.
        rng: draws the workers that fail.
    """

    def __init__(
        self,
        *,
        events: Events,
        fleet: SharedFleet,
        cascades: Sequence[Controlled],
        pools: Sequence[WorkerPool],
        planner: Planner,
        failed: Callable[[list[WorkerJob]], None],
        rng: random.Random,
        elastic: Sequence[AcceleratorClass] = (),
        no_nodes: Sequence[NoNodes] = (),
    ) -> None:
        self._events = events
        self._fleet = fleet
        self._cascades = {each.cascade.ref: each for each in cascades}
        self._pools = tuple(map(PoolView, pools))
        self._failed = failed
        self._rng = rng
        self._planner = planner
        self._memory = Memory()
        self._states: dict[str, tuple[WorkerState, float]] = {}
        """The state of each worker that was started, and when it began."""
        self._pool_of: dict[str, PoolRef] = {}
        """The pool that each worker was started in."""
        self._elastic = {each.name: each for each in elastic}
        self._no_nodes = tuple(no_nodes)
        self._node_at_s: dict[str, float] = {}
        """When the Node of each worker of an elastic class comes."""
        self._problems: dict[str, str] = {}
        """What is wrong with workers that failed."""
        self._closed_until_s: dict[str, float] = {}
        """Until when the operator counts on no Node of an elastic class, as none came."""
        self._variants = {v.weights.digest: (each, v.name) for each in cascades for v in each.cascade.spec.variants}
        """A variant of each weights, with its cascade."""
        self._unseen: set[str] = set()
        """Workers that are lost, which the operator does not yet know."""
        self._hosted: dict[str, tuple[Host, ...]] = {}
        """What lost workers hosted."""
        self._turn = 0
        self._last_s = -float("inf")
        self.decisions = 0

    def start(self, *, failures: Sequence[Failure]) -> None:
        """Begin to decide."""
        for failure in failures:
            self._events.at(failure.at_s, self._fail, failure)
        self._schedule(self._events.now)

    def loaded(self, worker: SharedWorker) -> None:
        """Weights of a worker are ready."""
        if worker.id in self._states:
            if self._states[worker.id][0] is WorkerState.STARTING:
                self._states[worker.id] = (WorkerState.READY, self._events.now)
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
                    self._cascades[plan.ref].plan = plan
                    self._cascades[plan.ref].router.publish(plan)
                case SetStatus():
                    self._cascades[action.cascade].status = action.status
                case StartWorker():
                    self._start(action)
                case DrainWorker(name):
                    self._states[name] = (WorkerState.DRAINING, now)
                case StopWorker(name):
                    self._forget(name)
                    self._fleet.clear(self._fleet.workers[name])
                case Load(name, weights):
                    self._load(self._fleet.workers[name], weights)
                case Unload(name, weights):
                    worker = self._fleet.workers[name]
                    self._failed(self._fleet.unload(worker, weights))

    def _load(self, worker: SharedWorker, weights: str) -> None:
        if self._states[worker.id][0] is WorkerState.DRAINING:
            self._states[worker.id] = (WorkerState.READY, self._events.now)
            self._wake()
        if weights not in worker.hosts:
            self._fleet.load(worker, weights, self._load_s(weights, worker.accelerator_class))

    def _start_s(self, weights: Sequence[str], accelerator_class: str) -> float:
        """Seconds from an empty accelerator until it serves weights: the longest start, or the loads in a row."""
        by_cascade: dict[CascadeRef, list[str]] = {}
        for digest in weights:
            cascade, variant = self._variants[digest]
            by_cascade.setdefault(cascade.cascade.ref, []).append(variant)
        starts_s = [self._cascades[ref].timings.start_s(names, accelerator_class) for ref, names in by_cascade.items()]
        if len(starts_s) == 1:
            return starts_s[0]
        return max(*starts_s, sum(self._load_s(digest, accelerator_class) for digest in weights))

    def _load_s(self, weights: str, accelerator_class: str) -> float:
        cascade, variant = self._variants[weights]
        return cascade.timings.load_s(variant, accelerator_class)

    def _start(self, start: StartWorker) -> None:
        free = (
            w
            for w in self._fleet.workers.values()
            if w.id not in self._states and not w.lost and w.accelerator_class == start.accelerator_class
        )
        worker = next(free, None)
        if worker is None:
            return
        self._states[worker.id] = (WorkerState.STARTING, self._events.now)
        self._pool_of[worker.id] = start.pool
        loads_s = [self._load_s(weights, start.accelerator_class) for weights in start.weights]
        seconds = self._start_s(start.weights, start.accelerator_class) + self._node_s(worker)
        # The first weights take what the others leave of the whole.
        for weights, load_s in zip(start.weights, [seconds - sum(loads_s[1:]), *loads_s[1:]], strict=True):
            self._fleet.load(worker, weights, load_s)

    def _node_s(self, worker: SharedWorker) -> float:
        """Seconds until the Node of a worker that is started now comes; the operator waits for it only so long."""
        known, now = self._elastic.get(worker.accelerator_class), self._events.now
        if known is None:
            return 0.0
        comes_s = now + known.provision_s
        for none in sorted(self._no_nodes, key=lambda each: each.at_s):
            if none.at_s <= comes_s < none.at_s + none.for_s:
                comes_s = none.at_s + none.for_s
        self._node_at_s[worker.id] = comes_s
        if comes_s - now > patience_s(known):
            self._events.at(now + patience_s(known), self._give_up, (worker, now))
        return comes_s - now

    def _give_up(self, subject: tuple[SharedWorker, float]) -> None:
        """A Node has not come in time: its worker counts as failed, and for a while no others are asked for."""
        worker, since_s = subject
        if self._states.get(worker.id) != (WorkerState.STARTING, since_s):
            return
        known = self._elastic[worker.accelerator_class]
        self._states[worker.id] = (WorkerState.FAILED, self._events.now)
        self._problems[worker.id] = f"no Node had room for it within {patience_s(known):.0f} s"
        self._closed_until_s[known.name] = self._events.now + REOPEN_FACTOR * known.provision_s
        self._wake()

    def _forget(self, name: str) -> None:
        self._states.pop(name, None)
        self._problems.pop(name, None)
        self._node_at_s.pop(name, None)

    def _exists(self, worker: SharedWorker) -> bool:
        """Whether the operator counts on the accelerator: it is there, or a Node may come."""
        if worker.lost and worker.id not in self._unseen:
            return False
        closed = self._closed_until_s.get(worker.accelerator_class, -math.inf) > self._events.now
        return not closed or self._node_at_s.get(worker.id, math.inf) <= self._events.now

    def _snapshot(self) -> Snapshot:
        workers = tuple(self._seen(worker) for worker in self._fleet.workers.values() if worker.id in self._states)
        oldest = int(EPOCH + self._events.now) - DEMAND_S
        views = tuple(_view(each, oldest) for each in self._cascades.values())
        inventory = Counter(w.accelerator_class for w in self._fleet.workers.values() if self._exists(w))
        return Snapshot(views, dict(inventory), workers, pools=self._pools)

    def _seen(self, worker: SharedWorker) -> Worker:
        """A worker as the operator sees it; a lost one as it was until the loss is noticed."""
        state, since_s = self._states[worker.id]
        on = worker.accelerator_class
        in_flight: dict[tuple[CascadeRef, str], int] = {}
        for ref, each in self._cascades.items():
            used = each.router.in_use(worker)
            for variant in each.cascade.spec.variants if used else ():
                name = pool_name(variant=variant.name, accelerator_class=on)
                if name in used:
                    in_flight[ref, variant.name] = used[name]
        return Worker(
            id=worker.id,
            pool=self._pool_of[worker.id],
            accelerator_class=on,
            endpoint=f"{worker.id}:8001",
            state=state,
            since_s=EPOCH + since_s,
            hosts=self._hosted[worker.id] if worker.lost else _hosts(worker),
            in_flight=in_flight,
            problem=self._problems.get(worker.id, ""),
        )

    # --- failures

    def _fail(self, failure: Failure) -> None:
        alive = [worker for worker in self._fleet.workers.values() if not worker.lost]
        for worker in self._rng.sample(alive, min(failure.workers, len(alive))):
            self._unseen.add(worker.id)
            self._hosted[worker.id] = _hosts(worker)
            self._failed(self._fleet.lose(worker))
            self._events.at(self._events.now + DETECT_S, self._detect, worker)
            self._events.at(self._events.now + failure.for_s, self._return, worker)

    def _detect(self, worker: SharedWorker) -> None:
        self._unseen.discard(worker.id)
        if worker.lost:
            self._forget(worker.id)
            self._wake()

    def _return(self, worker: SharedWorker) -> None:
        worker.lost = False
        self._unseen.discard(worker.id)
        self._forget(worker.id)
        self._wake()


def _view(each: Controlled, oldest: int) -> CascadeView:
    """A cascade as the operator sees it, with the arrivals from a second on."""
    return CascadeView(
        cascade=each.cascade,
        profile=each.profile,
        plan=each.plan,
        demand=Demand(tuple((second, count) for second, count in each.router.demand.items() if second >= oldest)),
        queue_depths=each.router.depths(),
        reports=(each.router.report(),),
        status=each.status,
    )


def _hosts(worker: SharedWorker) -> tuple[Host, ...]:
    return tuple(
        Host(weights, HostState.LOADING, EPOCH + hosted.since_s)
        if hosted.ready_s is None
        else Host(weights, HostState.READY, EPOCH + hosted.ready_s)
        for weights, hosted in worker.hosts.items()
    )


def in_words(plan: Plan) -> str:
    """A plan in words, for reports."""
    pools = " + ".join(f"{len(p.ready)}×{p.variant}@{p.batch}" for p in plan.pools if p.ready)
    rows = ", ".join(f"{r.share:.0%} r={r.direct:.1f} d={r.escalation:.1f}" for r in plan.rows)
    return f"{pools}; {plan.rows[0].path}: {rows} ({plan.reason})"
