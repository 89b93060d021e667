"""The first stage of a decision: everything that is known about one cascade before anything is decided for it.

`observe` joins three things: what was collected in this tick (`CascadeView`), what the planner remembers from earlier
ticks (`CascadeMemory`), and what follows from spec and profile (`Prepared`). It also answers four questions:

- Can the cascade not be planned at all, for example because its profile is missing (``refused``)?
- Must it be left as it is, for example because Redis cannot be reached (``held``)?
- When did a client last ask for an image (``asked_at_s``)?
- Was that so long ago that nothing should run (``idle``)?

Later stages read the result and never change it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import PlanRow, Tier
from cascade_api.quantities import duration_s
from cascade_api.reasons import Reason
from cascade_api.report import RouterReport

from ..snapshot import CascadeView, HostState, PoolRef, Snapshot, Worker, WorkerState
from .allocation import NO_TIERS, HostSet, Hull, Placement, PoolKey, PoolSize, TierShares
from .arrivals import clearing_rate
from .floors import FloorAccount, settled
from .memory import CascadeMemory, Leaving, Memory, Slowdown, Target
from .prepared import NotPlannable, Preparations, Prepared
from .slowdowns import slowdowns

KEPT_BUSY_OBJECTIVES: Final = 0.3
"""Work that may wait for each worker that hosts all variants, in objectives: it is how those are kept busy."""

LEAST_REQUESTS: Final = 20
"""Requests from which on the shares of their tiers say something."""
TIER_STEP: Final = 0.01
"""Smallest share of a tier that is planned for; smaller changes are chance."""

Why = tuple[Reason, str]
"""A reason and the message that goes with it."""


@dataclass(frozen=True, eq=False)
class Observed:
    """One cascade at the beginning of a tick.

    ``workers`` are those of its pools, which others may share, and ``leaving`` are the weights that these are to leave.
    ``refused`` says why it cannot be planned, and ``held`` why it must be left as it is. ``asked_at_s`` is when a
    client last asked for an image (Unix seconds; 0: not known). ``idle`` means that this was so long ago that nothing
    should run. ``start_s`` is how many seconds workers take until they serve, where more could be started (else 0).
    """

    view: CascadeView
    workers: tuple[Worker, ...]
    memory: CascadeMemory
    store_available: bool
    leaving: tuple[Leaving, ...] = ()
    prepared: Prepared | None = None
    refused: Why | None = None
    held: Why | None = None
    asked_at_s: float = 0.0
    idle: bool = False
    start_s: float = 0.0

    @property
    def ref(self) -> CascadeRef:
        return self.view.cascade.ref

    @property
    def pool(self) -> PoolRef | None:
        """The WorkerPool that it shares with other cascades; None: it has pools of its own."""
        first = self.view.cascade.spec.workers[0]
        return PoolRef.of(self.ref, first) if first.pool is not None else None

    @property
    def objective_s(self) -> float:
        return self.view.cascade.spec.objective.latency_s

    @property
    def degrades(self) -> bool:
        """Whether the light image is the answer when the heavy one would come too late (``overload: degrade``)."""
        return self.view.cascade.spec.policy.overload == "degrade"

    @property
    def known(self) -> Prepared:
        """The prepared cascade; raises LookupError for a cascade that cannot be planned."""
        if self.prepared is None:
            raise LookupError(f"{self.ref} was not prepared")
        return self.prepared

    @property
    def decides(self) -> bool:
        """Whether pools are decided in this tick, whether or not the decision is acted upon."""
        return self.prepared is not None and self.held is None and self.view.cascade.spec.policy.mode != "paused"

    @property
    def acts(self) -> bool:
        """Whether decisions are acted upon."""
        return self.decides and self.view.cascade.spec.policy.mode == "auto"

    @property
    def moves_slowly(self) -> bool:
        """Whether a move takes more than half an objective, so that the load may have changed before it is done."""
        return self.known.load_s + self.known.node_s > self.objective_s / 2

    @property
    def store_was_away(self) -> bool:
        """Whether Redis was unreachable at some time since the last plan was published, and so may have lost it."""
        return self.memory.store_was_away or not self.store_available

    @property
    def rows(self) -> list[PlanRow]:
        """The rows in force."""
        return list(self.view.plan.rows) if self.view.plan is not None else []

    @property
    def ready(self) -> Counter[HostSet]:
        """Workers that serve, by the weights that are ready there."""
        return ready_hosts(self.workers, self.leaving)

    @property
    def running(self) -> Counter[HostSet]:
        """Workers that serve or will, by the weights that are ready or loading there."""
        served = (serving(w, self.leaving, loading=True) for w in self.workers)
        return Counter(each for each in served if each.weights)

    @property
    def target(self) -> Target:
        """The last pool decision; empty if there was none."""
        return self.memory.target or Target()

    @property
    def target_sizes(self) -> dict[PoolKey, PoolSize]:
        """Replicas and batch size by pool that the last pool decision asked for."""
        return self.target.sizes

    def in_flight(self, worker: Worker, weights: Collection[str]) -> int | None:
        """Requests for some weights that a worker has in hand; None if that is not known."""
        if worker.in_flight is None:
            return None
        known = self.known.variants_with
        if not known.keys() >= set(weights):
            return sum(worker.in_flight.values())
        names = {name for digest in weights for name in known[digest]}
        if self.known.hull is not None:
            # The requests of a variant may wait, and count, in the queue of another one.
            names |= {queue for name in names if (queue := self.known.hull.queue_of(name))}
        return sum(worker.in_flight.get((self.ref, name), 0) for name in names)

    def placement(self, hosts: Mapping[HostSet, int], target: Target) -> Placement:
        """Workers by what they host, with the pools of the variants that they serve."""
        sizes = target.sizes
        return self.known.placement(hosts, sizes=sizes, batches=self.batches(sizes))

    def slowdowns(self, now: float) -> tuple[Slowdown, ...]:
        """How much slower pools are than the profile says; the next decision plans with it."""
        if self.prepared is None:
            return self.memory.slowdowns
        judged = {row.light for row in self.rows if row.direct < 1}
        remembered, reports = self.memory.slowdowns, self.view.reports
        return slowdowns(self.prepared, judged=judged, reports=reports, remembered=remembered, now=now)

    def floor_account(self, rate: float) -> FloorAccount:
        """How the images that were made compare with the quality floor; ``rate`` is the expected requests per second.

        The next decision plans with it.
        """
        if self.prepared is None or self.prepared.floor is None:
            return self.memory.floor if self.prepared is None else FloorAccount()
        return settled(
            self.memory.floor,
            self.view.reports,
            self.prepared.grids,
            floor=self.prepared.floor,
            rate=rate,
            objective_s=self.objective_s,
        )

    def waiting(self, key: PoolKey) -> int:
        """Requests that wait for the variant of a pool; 0 if that is not known."""
        return (self.view.queue_depths or {}).get(pool_name(variant=key[0], accelerator_class=key[1]), 0)

    def batches(self, target: Mapping[PoolKey, PoolSize]) -> dict[PoolKey, int]:
        """Batch size by pool: from the target, or for pools that it does not have, from the plan in force.

        Workers that host all variants have the batch sizes of the hull.
        """
        hull = self.prepared.hull if self.prepared is not None else None
        if hull is not None:
            return {(name, hull.accelerator_class): batch for name, batch in hull.batches.items()}
        pools = self.view.plan.pools if self.view.plan else []
        in_force = {(pool.variant, pool.accelerator_class): pool.batch for pool in pools}
        return in_force | {key: size.batch for key, size in target.items()}

    def firm_variants(self) -> set[str]:
        """Variants of the plan in force whose images cannot be replaced by another image when they come too late.

        A light variant is always one of them. A variant that prompts reach directly is one unless a light image may
        be the answer instead.
        """
        light = {row.light for row in self.rows if row.direct < 1}
        return light if self.degrades and light else light | {row.heavy for row in self.rows if row.direct > 0}

    def backlog(self, batches: Mapping[PoolKey, int]) -> dict[str, float]:
        """The backlog by variant, as the rate (requests per second) that clears it within half an objective.

        One batch for each ready replica may wait without being a backlog. Requests that wait for a heavy variant are
        no backlog where their light images can be the answer: a short queue keeps the heavy pool busy.
        """
        if self.known.hull is not None:
            return self._shared_backlog(self.known.hull)
        rates: dict[str, float] = {}
        firm = self.firm_variants()
        for key, size in self.placement(self.ready, self.target).pools.items():
            if self.degrades and key[0] not in firm:
                continue
            excess = self.waiting(key) - size.replicas * batches.get(key, 1)
            if excess > 0:
                rates[key[0]] = rates.get(key[0], 0.0) + clearing_rate(excess, objective_s=self.objective_s)
        return rates

    def _shared_backlog(self, hull: Hull) -> dict[str, float]:
        """The same where workers host all variants: what they have no time for within `KEPT_BUSY_OBJECTIVES`."""
        waiting = {name: self.waiting((name, hull.accelerator_class)) for name in hull.weights}
        work_s = sum(count * self._waiting_s(hull, name) for name, count in waiting.items())
        busy_s = KEPT_BUSY_OBJECTIVES * self.objective_s * self._workers_worth(hull)
        if work_s <= busy_s:
            return {}
        # In images of the variant that a queue is named by, which others may wait in.
        images = {
            name: count * self._waiting_s(hull, name) / hull.image_s(name)
            for name, count in waiting.items()
            if count and hull.image_s(name)
        }
        part = 1 - busy_s / work_s
        return {name: part * count / (self.objective_s / 2) for name, count in images.items()}

    def _workers_worth(self, hull: Hull) -> float:
        """The workers that it keeps busy: all of its own; of a WorkerPool those that its plan takes, at least one."""
        there = self.placement(self.ready, self.target).workers
        if self.pool is None or self.view.plan is None:
            return there
        seconds = sum(
            row.share * ((1 - row.direct) * hull.image_s(row.light) + row.heavy_share * hull.image_s(row.heavy))
            for row in self.rows
        )
        return min(there, max(self.view.plan.expected.demand * seconds, 1.0))

    def _waiting_s(self, hull: Hull, queue: str) -> float:
        """Mean seconds of an image of those that wait in a queue, by the shares of the rows in force."""
        loads: defaultdict[str, float] = defaultdict(float)
        for row in self.rows:
            loads[row.light] += row.share * (1 - row.direct)
            loads[row.heavy] += row.share * row.heavy_share
        here = {name: load for name, load in loads.items() if (hull.queue_of(name) or name) == queue}
        total = sum(here.values())
        if not total:
            return hull.image_s(queue)
        return sum(load * hull.image_s(name) for name, load in here.items()) / total


def serving(worker: Worker, leaving: Collection[Leaving], *, loading: bool = False) -> HostSet:
    """The weights that a worker makes images with; with ``loading`` also those that it will.

    It is empty for workers that drain or failed. What it is to leave is not among them.
    """
    gone = {each.weights for each in leaving if each.worker == worker.id}
    states = (HostState.READY, HostState.LOADING) if loading else (HostState.READY,)
    here = (WorkerState.READY, WorkerState.STARTING) if loading else (WorkerState.READY,)
    hosts = worker.hosting(*states) if worker.state in here else ()
    return HostSet.of((weights for weights in hosts if weights not in gone), worker.accelerator_class)


def ready_hosts(workers: Collection[Worker], leaving: Collection[Leaving]) -> Counter[HostSet]:
    """Workers that serve, by the weights that are ready there."""
    return Counter(each for each in (serving(worker, leaving) for worker in workers) if each.weights)


def observe(view: CascadeView, snapshot: Snapshot, memory: Memory, now: float, preparations: Preparations) -> Observed:
    """Everything that is known about a cascade at ``now`` (Unix seconds)."""
    remembered = memory.of(view.cascade.ref, view.plan)
    held: Why | None = None
    if not snapshot.store_available:
        held = Reason.STORE_AWAY, "Redis cannot be reached: the last plan is held"
    if snapshot.inventory is None:
        held = Reason.INVENTORY_UNKNOWN, "the accelerators of the cluster are not known: the last plan is held"
    prepared, refused = _prepared(view, remembered, preparations)
    shared = [PoolRef.of(view.cascade.ref, each) for each in view.cascade.spec.workers if each.pool is not None]
    workers = tuple(w for w in snapshot.workers if w.pool.owner == view.cascade.ref or w.pool in shared)
    asked_at_s, idle = _last_asked(view, remembered, now)
    leaving = remembered.leaving
    if shared:
        # What the workers of a WorkerPool are to leave is the same for all of its cascades, also for new ones.
        ours = {worker.id for worker in workers}
        known = {each for kept in memory.cascades.values() for each in kept.leaving if each.worker in ours}
        leaving = tuple(sorted(known, key=lambda each: (each.worker, each.weights, each.since_s)))
    return Observed(
        view,
        workers,
        remembered,
        snapshot.store_available,
        leaving,
        prepared,
        refused,
        held,
        asked_at_s,
        idle,
        start_s=_start_s(workers, snapshot, prepared),
    )


def _prepared(
    view: CascadeView, memory: CascadeMemory, preparations: Preparations
) -> tuple[Prepared | None, Why | None]:
    if view.profile is None:
        name = view.cascade.spec.profile_ref.name
        return None, (
            Reason.PROFILE_MISSING,
            f"spec.profileRef.name: there is no CascadeProfile {name!r}: apply it",
        )
    factors = {slowdown.pool: slowdown.factor for slowdown in memory.slowdowns}
    try:
        prepared = preparations.of(view.cascade, view.profile, factors, memory.mix)
        return prepared.corrected(floor_raised=memory.floor.raised, tiers=tier_shares(view.reports)), None
    except NotPlannable as error:
        return None, (error.reason, str(error))


def tier_shares(reports: Sequence[RouterReport]) -> TierShares:
    """The shares of the latest requests that ask for a tier, over all routers; of too few requests none."""
    asked: Counter[Tier] = Counter()
    for report in reports:
        asked.update(report.recent_tiers)
    total = asked.total()
    if total < LEAST_REQUESTS or total == asked["auto"]:
        return NO_TIERS
    return TierShares(*(round(asked[tier] / total / TIER_STEP) * TIER_STEP for tier in ("low", "high")))


def _start_s(workers: Sequence[Worker], snapshot: Snapshot, prepared: Prepared | None) -> float:
    """How long a worker takes that the cascade could start on a free accelerator.

    Where another cascade would first have to give one up, looking ahead that far made the images worse
    (docs/benchmarks/policies.md).
    """
    if prepared is None:
        return 0.0
    here, free = Counter(worker.accelerator_class for worker in workers), snapshot.free
    bounds = prepared.problem.workers.items()
    may_grow = [name for name, bound in bounds if free[name] and here[name] < bound.max]
    return max((prepared.start_s(name) for name in may_grow), default=0.0)


def _last_asked(view: CascadeView, memory: CascadeMemory, now: float) -> tuple[float, bool]:
    """When a client last asked, and whether the cascade is idle.

    It is idle when nobody asked for `spec.policy.scaleToZeroAfter`, nothing waits, and no minimum of workers or hosts
    is set. Whoever waits in a router until a worker comes asks all the time. When the planner sees a cascade for the
    first time, it counts this as a request at ``now``.
    """
    demand, policy = view.demand, view.cascade.spec.policy
    if policy.scale_to_zero_after is None or demand is None:
        return memory.asked_at_s, False
    last = max((second for second, count in demand.counts if count), default=0)
    asked_at_s = max(memory.asked_at_s, float(last))
    if any(report.waiting for report in view.reports) or (not asked_at_s and not memory.parked):
        asked_at_s = now
    quiet = now - asked_at_s >= duration_s(policy.scale_to_zero_after)
    waiting = any((view.queue_depths or {}).values())
    spec = view.cascade.spec
    wanted = any(variant.min_hosts for variant in spec.variants) or any(pool.min for pool in spec.workers)
    return asked_at_s, quiet and not waiting and not wanted and view.plan is not None
