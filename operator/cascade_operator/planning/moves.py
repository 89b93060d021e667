"""The fourth stage of a decision: the next safe steps from what workers host to what they should.

Load moves between the variants of hosted weights by shares alone, so a step is needed only where a worker should host
other weights. It goes through up to four ticks, each of which leaves every row in force with workers for it:

1. If its memory holds the new weights beside what is there, they are loaded first.
2. The weights that go are left (`Leaving`): the plan takes away their credits, and keeps those of all others.
3. When their last requests ended, they are unloaded, and what is still missing is loaded.
4. The plan gives credits for the new weights when they are ready.

A worker that nobody needs is drained and stopped; one that is missing is started where an accelerator is free.

The last ready host of weights is never left while the rows in force need it. It is first named in `Moves.vacate`, so
that the next plan has rows that do without these weights. Once that plan is in force and nothing waits for them, the
last host is left, too. For example, a cascade with 2 dedicated workers that moves from one heavy variant to another
first publishes rows that use the light variant alone, and only then leaves the old heavy weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_api.names import CascadeRef
from cascade_api.settings import PlannerSettings

from ..snapshot import (
    DrainWorker,
    HostState,
    Load,
    Move,
    PoolRef,
    StartWorker,
    StopWorker,
    Unload,
    Worker,
    WorkerState,
)
from . import plans
from .allocation import HostSet, Placement
from .forecast import Forecast
from .memory import Leaving
from .observed import Observed, serving
from .shared_pools import SharedPool
from .targets import TargetDecision

BEARABLE_SHED_SHARE: Final = 0.1
"""Share of the demand that may be shed for the duration of a move. A move that itself interrupts service is worth it
only if it ends the shedding of more than this share."""

Hosted = tuple[str, str]
"""Weights, by digest, on an accelerator class."""


@dataclass(frozen=True)
class Moves:
    """Steps to take now.

    ``leaving`` are all weights that workers get no requests for, so that they can be unloaded. ``vacate`` are weights
    that rows must do without before their last host can be left. ``moving`` means that the workers do not yet host what
    the target wants.
    """

    actions: tuple[Move, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    vacate: Hosted | None = None
    moving: bool = False


def started(moves: Moves) -> Counter[str]:
    """Free accelerators by class that the moves take."""
    return Counter(action.accelerator_class for action in moves.actions if isinstance(action, StartWorker))


def decide_moves(
    seen: Observed,
    expected: Forecast,
    decided: TargetDecision,
    free: Mapping[str, int],
    now: float,
    settings: PlannerSettings,
) -> Moves:
    """The next safe steps of a cascade; it may take ``free`` accelerators, up to its own ceilings."""
    own = Counter(worker.accelerator_class for worker in seen.workers)
    ceilings = seen.view.cascade.spec.accelerators
    return next_moves(
        workers=seen.workers,
        target=decided.workers,
        leaving=seen.leaving,
        free={name: max(min(count, ceilings.get(name, 0) - own[name]), 0) for name, count in free.items()},
        left=_left(seen, now) | _outgrown(seen, expected, decided),
        pools={pool.accelerator_class: PoolRef.of(seen.ref, pool) for pool in seen.view.cascade.spec.workers},
        order=list(dict.fromkeys(digest for _, digest in sorted(seen.known.weights.items()))),
        fits=seen.known.fits,
        in_flight=seen.in_flight,
        now=now,
        grace_s=seen.objective_s,
        at_once=max(len(seen.workers) * settings.moves_percent // 100, 1),
    )


def decide_pool_moves(
    pool: SharedPool,
    decided: Mapping[CascadeRef, TargetDecision],
    free: Mapping[str, int],
    now: float,
    settings: PlannerSettings,
) -> Moves:
    """The next safe steps of the workers of a WorkerPool, for all of its cascades; it may take ``free`` accelerators.

    Weights that no cascade of the pool has are left at once. As long as nothing is decided for the pool, nothing moves.
    """
    target = _pool_target(pool, decided)
    if target is None:
        return Moves(leaving=pool.leaving)
    name = pool.spec.accelerator_class
    return next_moves(
        workers=pool.workers,
        target=target,
        leaving=pool.leaving,
        free={name: max(min(free.get(name, 0), pool.most - len(pool.workers)), 0)},
        left=set.intersection(pool.hosted, *(_left(seen, now) for seen in pool.cascades)),
        pools={name: pool.ref},
        order=list(pool.weights),
        fits=pool.fits,
        in_flight=pool.in_flight,
        now=now,
        grace_s=max((seen.objective_s for seen in pool.cascades), default=0.0),
        at_once=_at_once(pool, settings),
    )


def decide_former_moves(seen: Observed, free: Mapping[str, int], now: float) -> Moves:
    """The steps by which a cascade that names a WorkerPool now leaves the workers that it had of its own before.

    A worker goes when the pool hosts its weights. If the pool has no worker, and no accelerator is ``free`` for one at
    the beginning of the tick, one worker makes room.
    """
    own = tuple(worker for worker in seen.workers if worker.pool != seen.pool)
    pool = [worker for worker in seen.workers if worker.pool == seen.pool]
    hosted = {(digest, w.accelerator_class) for w in own for digest in w.hosting(HostState.READY)}
    there = {digest for worker in pool for digest in worker.hosting(HostState.READY)}
    stuck = not pool and not free.get(seen.known.spec.workers[0].accelerator_class, 0)
    return next_moves(
        workers=own,
        target={},
        leaving=(),
        free={},
        left={key for key in hosted if stuck or key[0] in there} | _left(seen, now),
        pools={},
        order=(),
        fits=seen.known.fits,
        in_flight=seen.in_flight,
        now=now,
        grace_s=seen.objective_s,
        at_once=1 if stuck else len(own),
    )


def _at_once(pool: SharedPool, settings: PlannerSettings) -> int:
    """The most workers of a WorkerPool that may be on the move; all, where loads take little of an objective.

    A crowd at one cascade needs its weights on many workers at once, and a worker goes on with others meanwhile.
    """
    if any(seen.known.load_s > seen.objective_s / 2 for seen in pool.planned):
        return max(len(pool.workers) * settings.moves_percent // 100, 1)
    return len(pool.workers)


def _pool_target(pool: SharedPool, decided: Mapping[CascadeRef, TargetDecision]) -> Mapping[HostSet, int] | None:
    """What the workers of a WorkerPool should host; None: they stay as they are.

    A pool that no cascade needs is emptied, except where its cascades are all parked and it has a minimum of workers.
    """
    if pool.planned:
        target = decided[pool.planned[0].ref].target
        return target.workers if target is not None and target.pool_print else None
    parked = all(seen.idle and seen.decides for seen in pool.cascades)
    return {} if parked and not (pool.cascades and pool.spec.workers.min) else None


def _left(seen: Observed, now: float) -> set[Hosted]:
    """Weights that the plan in force no longer needs and for which nothing waits, so that their last host may go.

    If queue lengths are not known, weights count as left one objective after the last plan was published. Weights that
    the spec no longer has count as left at once, since no plan may name their variants.
    """
    ready = {(digest, each.accelerator_class) for each in seen.ready for digest in each.weights}
    if seen.idle:
        return ready
    if seen.prepared is None:
        variants = seen.view.plan.variants if seen.view.plan is not None else {}
        in_force = {variants[name].weights for name in plans.needed(seen.rows)}
        return {key for key in ready if key[0] not in in_force}
    left = {key for key in ready if key[0] not in seen.known.variants_with}
    needed = {seen.known.weights[name] for name in plans.needed(seen.rows) if name in seen.known.weights}
    for key in ready - left:
        elsewhere = {digest for digest, on in ready if on != key[1]}
        if key[0] in needed and key[0] not in elsewhere:
            continue
        if seen.view.queue_depths is None:
            empty = now - seen.memory.published_at_s >= seen.objective_s
        else:
            empty = not any(seen.waiting((name, key[1])) for name in seen.known.variants_with[key[0]])
        if empty:
            left.add(key)
    return left


def _outgrown(seen: Observed, expected: Forecast, decided: TargetDecision) -> set[Hosted]:
    """The weights of a cascade's only worker, if it cannot carry the load but the target can.

    With one worker that holds no more, no step is safe. A short interruption is better than refusing a part of the load
    for good.
    """
    if len(seen.workers) != 1:
        return set()
    only = serving(seen.workers[0], ())
    pools = seen.placement({only: 1}, decided.target or seen.target)
    target = seen.known.share(Placement(decided.workers, decided.sizes), demand=expected.rate)
    present = seen.known.share(pools, demand=expected.rate)
    if present.shed - target.shed <= BEARABLE_SHED_SHARE:
        return set()
    return {(digest, only.accelerator_class) for digest in only.weights}


def next_moves(
    *,
    workers: Sequence[Worker],
    target: Mapping[HostSet, int],
    leaving: Collection[Leaving],
    free: Mapping[str, int],
    left: Collection[Hosted],
    pools: Mapping[str, PoolRef],
    order: Sequence[str],
    fits: Callable[[HostSet], bool],
    in_flight: Callable[[Worker, Collection[str]], int | None],
    now: float,
    grace_s: float,
    at_once: int = 1,
) -> Moves:
    """Steps towards ``target`` that are safe now; the same arguments give the same steps.

    Args:
        workers: all workers of the cascade.
        target: wanted workers by what they host.
        leaving: weights that workers are to leave, from earlier ticks.
        free: accelerators by class that nobody uses.
        left: weights that the rows in force no longer need and for which nothing waits.
        pools: the pool in which workers of a class are started.
        order: weights, those that come first where nothing else decides.
        fits: whether a worker may host a set.
        in_flight: the requests for some weights that a worker has in hand (None: unknown).
        now: Unix seconds.
        grace_s: seconds that requests may take to end on a worker that leaves their weights.
        at_once: most workers that may be on the move at the same time.
    """
    steps = _Steps(workers, target, leaving, left, order, fits, in_flight, now, grace_s)
    failed = [w for w in steps.workers if w.state is WorkerState.FAILED or w.hosting(HostState.FAILED)]
    under_way = [w for w in steps.workers if w not in failed and steps.under_way(w)]
    settled = [w for w in steps.workers if w not in failed and w not in under_way]
    steps.serving.update(steps.kept(worker) for worker in settled)
    moving = bool(failed or under_way) or any(steps.serving[each] != target.get(each, 0) for each in steps.known)
    out = len(under_way) + sum(1 for w in settled if w.state is WorkerState.STARTING or w.hosting(HostState.LOADING))

    for worker in failed:
        successor = steps.promised(worker)
        if successor is None:
            steps.actions.append(StopWorker(worker.id))
        else:
            steps.restart(worker, successor)
    for worker in under_way:
        # A successor is promised while requests still end, so that no other worker is taken for the same purpose.
        successor = steps.promised(worker)
        if successor is None and steps.kept(worker).weights:
            steps.serving[steps.kept(worker)] += 1
            steps.advance(worker, steps.kept(worker))
            settled.append(worker)
        elif successor is None or worker.state is WorkerState.DRAINING:
            steps.end(worker, successor)
        else:
            steps.advance(worker, successor)

    remaining = dict(free)
    for hosts in sorted(steps.deficit, key=lambda each: not steps.unserved(each)):
        pool = pools.get(hosts.accelerator_class)
        while pool and steps.missing(hosts) > 0 and remaining.get(hosts.accelerator_class, 0) > 0:
            remaining[hosts.accelerator_class] -= 1
            steps.serving[hosts] += 1
            out += 1
            steps.actions.append(StartWorker(pool, hosts.accelerator_class, hosts.weights))

    # First move surplus workers whose accelerators are wanted for something else; others go when nothing is missing.
    needy = {each.accelerator_class for each in steps.deficit}
    surplus = {each: -steps.missing(each) for each in steps.known if steps.missing(each) < 0}
    candidates = sorted((each for each in surplus if not needy or each.accelerator_class in needy), key=steps.rank)
    for hosts in sorted(candidates, key=lambda each: -surplus[each]):
        ready = [worker for worker in settled if steps.kept(worker) == hosts and steps.is_ready(worker)]
        for worker in sorted(ready, key=steps.idlest):
            if out >= at_once or steps.missing(hosts) >= 0:
                break
            successor = steps.successor(worker)
            begun = steps.drain(worker) if successor is None else steps.advance(worker, successor)
            if not begun:
                break
            out += 1
            steps.serving[hosts] -= 1
            if successor is not None:
                steps.serving[successor] += 1
    return Moves(tuple(steps.actions), tuple(steps.leaving), steps.vacate(idle=not out), moving)


class _Steps:
    """The steps that one tick has chosen, and what is still missing beside them.

    ``serving`` counts workers by what they host or are promised to host; a worker that is under way is counted by its
    successor alone.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        target: Mapping[HostSet, int],
        leaving: Collection[Leaving],
        left: Collection[Hosted],
        order: Sequence[str],
        fits: Callable[[HostSet], bool],
        in_flight: Callable[[Worker, Collection[str]], int | None],
        now: float,
        grace_s: float,
    ) -> None:
        self.workers = sorted(workers, key=lambda worker: worker.id)
        self.serving: Counter[HostSet] = Counter()
        self.actions: list[Move] = []
        self.leaving: list[Leaving] = []
        self.blocked: list[Hosted] = []
        self._target = target
        self._since = {(each.worker, each.weights): each.since_s for each in leaving}
        self._kept = {worker.id: serving(worker, leaving, loading=True) for worker in workers}
        self._hosts = Counter(
            (digest, each.accelerator_class)
            for each in (serving(worker, leaving) for worker in workers)
            for digest in each.weights
        )
        self._left = left
        self._order = {digest: index for index, digest in enumerate(order)}
        self._fits = fits
        self._in_flight = in_flight
        self._now = now
        self._grace_s = grace_s

    # --- what is so

    @property
    def known(self) -> set[HostSet]:
        """All sets that are hosted or wanted."""
        return {*self.serving, *self._target}

    @property
    def deficit(self) -> list[HostSet]:
        """Sets that too few workers host, in a fixed order."""
        return sorted((each for each in self._target if self.missing(each) > 0), key=self.rank)

    def missing(self, hosts: HostSet) -> int:
        """How many more workers should host a set."""
        return self._target.get(hosts, 0) - self.serving[hosts]

    def rank(self, hosts: HostSet) -> tuple[object, ...]:
        """A fixed order of sets."""
        places = sorted(self._order.get(digest, len(self._order)) for digest in hosts.weights)
        return places, hosts.accelerator_class, hosts.weights

    def unserved(self, hosts: HostSet) -> bool:
        """Whether some of these weights are hosted nowhere on their class."""
        here = (each for each, count in self.serving.items() if count > 0)
        there = {d for each in here if each.accelerator_class == hosts.accelerator_class for d in each.weights}
        return not there.issuperset(hosts.weights)

    def kept(self, worker: Worker) -> HostSet:
        """What a worker serves or will, without what it leaves."""
        return self._kept[worker.id]

    def under_way(self, worker: Worker) -> bool:
        """Whether a worker is between two sets, or at its end."""
        kept = self.kept(worker)
        if worker.state is WorkerState.DRAINING or not kept.weights:
            return True
        leaves = any((worker.id, digest) in self._since for digest in worker.hosting(HostState.READY))
        return leaves or (bool(worker.hosting(HostState.LOADING)) and kept not in self._target)

    def is_ready(self, worker: Worker) -> bool:
        return worker.state is WorkerState.READY and not worker.hosting(HostState.LOADING)

    def idlest(self, worker: Worker) -> tuple[bool, int, str]:
        """Order in which workers go: those with the least work in hand first."""
        count = self._in_flight(worker, self.kept(worker).weights)
        return count is None, count or 0, worker.id

    def successor(self, worker: Worker) -> HostSet | None:
        """The set that a worker should host next; None if none of its class is missing.

        A set with weights that are hosted nowhere comes first, since a chain can be used only when both of its stages
        have a worker. Then comes the one that keeps most of what is hosted, then the one that is missed most.
        """
        wanted = [each for each in self.deficit if each.accelerator_class == worker.accelerator_class]
        hosted = set(worker.hosting(*HostState))
        return max(
            wanted,
            key=lambda each: (self.unserved(each), len(hosted.intersection(each.weights)), self.missing(each)),
            default=None,
        )

    # --- what is done

    def promised(self, worker: Worker) -> HostSet | None:
        """The successor of a worker, which then is no longer missing."""
        found = self.successor(worker)
        if found is not None:
            self.serving[found] += 1
        return found

    def restart(self, worker: Worker, hosts: HostSet) -> None:
        """Have a worker that serves nothing host a set."""
        self.actions += [Unload(worker.id, d) for d in worker.hosting(*HostState) if d not in hosts.weights]
        self.actions += [Load(worker.id, digest) for digest in hosts.weights]

    def end(self, worker: Worker, successor: HostSet | None) -> None:
        """Stop a worker that serves nothing more when its last requests ended, or have it host a set."""
        hosted = worker.hosting(*HostState)
        draining = worker.state is WorkerState.DRAINING
        since_s = [worker.since_s if draining else self._since.get((worker.id, d), 0.0) for d in hosted]
        if not self._ended(worker, hosted, max(since_s, default=0.0)):
            self.leaving += [] if draining else [self._leaves(worker, digest) for digest in hosted]
        elif successor is None:
            self.actions.append(StopWorker(worker.id))
        else:
            self.restart(worker, successor)

    def drain(self, worker: Worker) -> bool:
        """Begin to end a worker; False if it is the last host of weights that rows in force need."""
        weights = self.kept(worker).weights
        if any(self._is_last(worker, digest) for digest in weights):
            return False
        self._hosts.subtract((digest, worker.accelerator_class) for digest in weights)
        self.actions.append(DrainWorker(worker.id))
        return True

    def advance(self, worker: Worker, hosts: HostSet) -> bool:
        """Take the next steps of a worker towards a set; False if none that is new is safe.

        New weights are loaded first where there is room for them, and the others are left when they are ready.
        """
        there = worker.hosting(HostState.READY, HostState.LOADING)
        missing = [digest for digest in hosts.weights if digest not in there]
        gone = [digest for digest in there if digest not in hosts.weights]
        loads = bool(missing) or not set(worker.hosting(HostState.LOADING)).isdisjoint(hosts.weights)
        begun = False
        for digest in gone:
            if (worker.id, digest) in self._since:
                self.leaving.append(self._leaves(worker, digest))
                if self._ended(worker, [digest], self._since[worker.id, digest]):
                    self.actions.append(Unload(worker.id, digest))
                    there = tuple(other for other in there if other != digest)
            elif not (loads and self._has_room(worker, there, missing)) and not self._is_last(worker, digest):
                self.leaving.append(self._leaves(worker, digest))
                self._hosts[digest, worker.accelerator_class] -= 1
                begun = True
        if missing and self._has_room(worker, there, missing):
            self.actions += [Load(worker.id, digest) for digest in missing]
            begun = True
        return begun

    def vacate(self, *, idle: bool) -> Hosted | None:
        """The first weights that rows must do without, so that their last host can leave them.

        Weights that the target has elsewhere are named only where nothing else is under way (``idle``): another worker
        will host them soon.
        """
        wanted = {(digest, each.accelerator_class) for each in self._target for digest in each.weights}
        return next((key for key in self.blocked if idle or key not in wanted), None)

    def _leaves(self, worker: Worker, digest: str) -> Leaving:
        return Leaving(worker.id, digest, self._since.get((worker.id, digest), self._now))

    def _has_room(self, worker: Worker, there: Collection[str], missing: Collection[str]) -> bool:
        return self._fits(HostSet.of([*there, *missing], worker.accelerator_class))

    def _is_last(self, worker: Worker, digest: str) -> bool:
        """Whether a worker is the last ready host of weights that rows in force need; that is noted."""
        key = digest, worker.accelerator_class
        last = self._hosts[key] <= 1 and key not in self._left
        if last and key not in self.blocked:
            self.blocked.append(key)
        return last

    def _ended(self, worker: Worker, weights: Collection[str], since_s: float) -> bool:
        """Whether the requests for weights have ended, or have had their time to."""
        return self._now - since_s >= self._grace_s or self._in_flight(worker, weights) == 0
