"""The fourth stage of a decision: the next safe steps from the replicas that run to those that are wanted.

With a free accelerator: start there, wait until it is ready, shift, then drain what is left over. Without one:
drain one replica, and once it is empty start its successor in place. Never a pool's last ready replica while
the rows in force need it: such a pool is first named in `Moves.vacate`, so that the caller publishes rows
without it, and is drained when the rows have left it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_api.names import CascadeRef
from cascade_api.settings import PlannerSettings

from ..snapshot import Drain, Replica, ReplicaState, Snapshot, Start, Stop, apart
from . import plans
from .allocation import PoolKey, PoolSize
from .forecast import Forecast
from .observed import Observed
from .targets import TargetDecision

BEARABLE_SHED_SHARE: Final = 0.1
"""Share of the demand that a move must save from being shed to be worth a gap, and that a gap may shed."""


@dataclass(frozen=True)
class Moves:
    """Steps to take now. ``vacate`` is the pool that rows must leave first; ``moving``: the target is not reached."""

    actions: tuple[Start | Drain | Stop, ...]
    vacate: PoolKey | None
    moving: bool


NO_MOVES: Final = Moves((), None, moving=False)


def free_accelerators(snapshot: Snapshot) -> Counter[str]:
    """Accelerators by class that no replica of any cascade sits on."""
    used = Counter(r.accelerator_class for view in snapshot.cascades for r in view.replicas)
    return Counter({name: max(count - used[name], 0) for name, count in (snapshot.inventory or {}).items()})


def started(moves: Moves) -> Counter[str]:
    """Free accelerators by class that the moves take."""
    return Counter(a.accelerator_class for a in moves.actions if isinstance(a, Start) and a.replica_id is None)


def decide_moves(
    seen: Observed,
    expected: Forecast,
    decided: TargetDecision,
    free: Mapping[str, int],
    now: float,
    settings: PlannerSettings,
) -> Moves:
    """The next safe steps of a cascade, which may use ``free`` accelerators up to its own ceilings."""
    own = Counter(r.accelerator_class for r in seen.view.replicas)
    ceilings = seen.view.cascade.spec.accelerators
    return next_moves(
        seen.ref,
        replicas=seen.view.replicas,
        target={key: size.replicas for key, size in decided.sizes.items()},
        free={name: max(min(count, ceilings.get(name, 0) - own[name]), 0) for name, count in free.items()},
        left=_left(seen, expected, decided, now),
        now=now,
        grace_s=seen.objective_s,
        at_once=max(len(seen.view.replicas) * settings.moves_percent // 100, 1),
    )


def _left(seen: Observed, expected: Forecast, decided: TargetDecision, now: float) -> set[PoolKey]:
    """Pools that the plan in force needs no more and where nothing waits: their last replica may go.

    With unknown queues a pool counts as left one objective after the plan without it was published. A variant
    that the spec no longer has is left at once: no plan may name it.
    """
    ready = seen.ready
    if seen.idle:
        return set(ready)
    names = {variant.name for variant in seen.known.spec.variants}
    left = {key for key in ready if names.isdisjoint(apart(key[0]))}
    needed = plans.needed(seen.rows)
    for key in ready:
        elsewhere = {name for other in ready if other != key for name in apart(other[0])}
        if not needed.intersection(apart(key[0])) <= elsewhere:
            continue
        if seen.view.queue_depths is None:
            empty = now - seen.memory.published_at_s >= seen.objective_s
        else:
            here = {name for other in ready if other != key and other[1] == key[1] for name in apart(other[0])}
            empty = not any(seen.waiting((name, key[1])) for name in apart(key[0]) if name not in here)
        if empty:
            left.add(key)
    return left | _outgrown(seen, expected, decided)


def _outgrown(seen: Observed, expected: Forecast, decided: TargetDecision) -> set[PoolKey]:
    """The pool of a cascade's only replica, where it cannot carry the load but the target can.

    With one accelerator a move has no safe step: a short gap is the lesser evil beside refusing load for good.
    """
    if len(seen.view.replicas) != 1:
        return set()
    only = seen.view.replicas[0].pool
    pools = {only: PoolSize(1, seen.batches(decided.sizes).get(only, 1))}
    target = seen.known.share(decided.sizes, demand=expected.rate)
    present = seen.known.share(pools, demand=expected.rate)
    return set(pools) if present.shed - target.shed > BEARABLE_SHED_SHARE else set()


def drained(replica: Replica, *, now: float, grace_s: float) -> bool:
    """Whether a draining replica holds no more work, or had long enough to finish it."""
    return replica.in_flight == 0 or now - replica.since_s >= grace_s


def next_moves(
    ref: CascadeRef,
    *,
    replicas: Sequence[Replica],
    target: Mapping[PoolKey, int],
    free: Mapping[str, int],
    left: Collection[PoolKey],
    now: float,
    grace_s: float,
    at_once: int = 1,
) -> Moves:
    """Steps towards ``target`` that are safe now; the same replicas and target give the same steps.

    ``free`` counts accelerators that nobody uses, ``left`` names pools that rows in force no longer need and
    where nothing waits, ``at_once`` bounds the replicas that are out of service for a move at a time.
    """
    actions: list[Start | Drain | Stop] = []
    serving = Counter(r.pool for r in replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING))
    deficit = Counter({key: count - serving[key] for key, count in target.items() if count > serving[key]})
    surplus = Counter({key: count - target.get(key, 0) for key, count in serving.items() if count > target.get(key, 0)})
    moving = bool(deficit or surplus)
    out = sum(1 for r in replicas if r.state in (ReplicaState.STARTING, ReplicaState.DRAINING))

    for replica in (r for r in replicas if r.state is ReplicaState.FAILED):
        moving = True
        successor = _successor(replica, deficit, serving)
        if successor is None:
            actions.append(Stop(ref, replica.id))
            continue
        deficit[successor] -= 1
        serving[successor] += 1
        actions.append(Start(ref, replica.id, replica.accelerator_class, successor[0]))

    for replica in (r for r in replicas if r.state is ReplicaState.DRAINING):
        moving = True
        successor = _successor(replica, deficit, serving)
        if successor is not None:
            # Pledged even while it still drains, so that no other replica is taken for the same purpose.
            deficit[successor] -= 1
            serving[successor] += 1
        if not drained(replica, now=now, grace_s=grace_s):
            continue
        if successor is None:
            actions.append(Stop(ref, replica.id))
        else:
            actions.append(Start(ref, replica.id, replica.accelerator_class, successor[0]))

    remaining = dict(free)
    for key in sorted(+deficit, key=lambda k: (serving[k] > 0, k)):
        variant, accelerator_class = key
        while deficit[key] > 0 and remaining.get(accelerator_class, 0) > 0:
            remaining[accelerator_class] -= 1
            deficit[key] -= 1
            out += 1
            actions.append(Start(ref, None, accelerator_class, variant))

    vacate = None
    needy = {accelerator_class for (_, accelerator_class), count in deficit.items() if count > 0}
    # In place where an accelerator is wanted for something else; a mere surplus goes when all else is done.
    candidates = sorted(key for key in +surplus if key[1] in needy or not +deficit)
    for key in sorted(candidates, key=lambda k: -surplus[k]):
        if out >= at_once:
            break
        ready = sorted(
            (r for r in replicas if r.pool == key and r.state is ReplicaState.READY),
            key=lambda r: (r.in_flight is None, r.in_flight or 0, r.id),
        )
        if not ready:
            continue
        may_go = len(ready) if key in left else len(ready) - 1
        if not may_go:
            vacate = vacate or key
        for replica in ready[: min(surplus[key], may_go, at_once - out)]:
            actions.append(Drain(ref, replica.id))
            out += 1
    return Moves(tuple(actions), vacate, moving)


def _successor(replica: Replica, deficit: Counter[PoolKey], serving: Counter[PoolKey]) -> PoolKey | None:
    """What a replica that is out of service shall serve next.

    A pool that nobody serves or starts comes first: a chain can be used only once it has both of its stages. Then its
    own variant if that is wanted, else the neediest.
    """
    wanted = [key for key in sorted(+deficit) if key[1] == replica.accelerator_class]
    own = replica.pool
    return max(wanted, key=lambda key: (not serving[key], key == own, deficit[key]), default=None)
