"""The fourth stage of a decision: the next safe steps from the replicas that run to those that are wanted.

If an accelerator is free, a new replica is started there; when it is ready, the rows use it, and then surplus replicas
are drained. If none is free, one surplus replica is drained, and when it is empty its successor starts in its place.

The last ready replica of a pool is never drained while the rows in force need it. Such a pool is first named in
`Moves.vacate`, so that the next plan has rows that do not use it. Once that plan is in force and nothing waits for the
pool, its last replica is drained too. For example, a cascade with 2 accelerators that moves from one heavy variant to
another first publishes rows that use the light variant alone, and only then drains the old heavy replica.
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
"""Share of the demand that may be shed for the duration of a move. A move that itself interrupts service is worth it
only if it ends the shedding of more than this share."""


@dataclass(frozen=True)
class Moves:
    """Steps to take now.

    ``vacate`` is a pool that rows must leave before its last replica can be drained. ``moving`` means that the replicas
    are not yet as the target wants them.
    """

    actions: tuple[Start | Drain | Stop, ...]
    vacate: PoolKey | None
    moving: bool


NO_MOVES: Final = Moves((), None, moving=False)


def free_accelerators(snapshot: Snapshot) -> Counter[str]:
    """Accelerators by class that no replica of any cascade uses."""
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
    """The next safe steps of a cascade; it may take ``free`` accelerators, up to its own ceilings."""
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
    """Pools that the plan in force no longer needs and where nothing waits, so that their last replica may go.

    If queue lengths are not known, a pool counts as left one objective after the last plan was published. Pools of a
    variant that the spec no longer has count as left at once, since no plan may name them.
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
    """The pool of a cascade's only replica, if it cannot carry the load but the target can.

    With one replica no step is safe. A short interruption is better than refusing a part of the load for good.
    """
    if len(seen.view.replicas) != 1:
        return set()
    only = seen.view.replicas[0].pool
    pools = {only: PoolSize(1, seen.batches(decided.sizes).get(only, 1))}
    target = seen.known.share(decided.sizes, demand=expected.rate)
    present = seen.known.share(pools, demand=expected.rate)
    return set(pools) if present.shed - target.shed > BEARABLE_SHED_SHARE else set()


def drained(replica: Replica, *, now: float, grace_s: float) -> bool:
    """Whether a draining replica has no work left, or has had ``grace_s`` seconds to finish it."""
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
    """Steps towards ``target`` that are safe now; the same arguments give the same steps.

    Args:
        ref: the cascade.
        replicas: all its replicas.
        target: wanted replicas by pool.
        free: accelerators by class that nobody uses.
        left: pools that the rows in force no longer need and where nothing waits.
        now: Unix seconds.
        grace_s: seconds that a draining replica may take to finish its work.
        at_once: most replicas that may be out of service for moves at the same time.
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
            # It is promised while it still drains, so that no other replica is drained for the same purpose.
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
    # First drain surplus replicas whose accelerators are wanted for something else; others go when nothing is missing.
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
    """The pool that a replica which is out of service should serve next; None if no pool of its class lacks one.

    A pool without any replica comes first, since a chain can be used only when both of its stages have one. Then comes
    the replica's own pool, then the pool that lacks most.
    """
    wanted = [key for key in sorted(+deficit) if key[1] == replica.accelerator_class]
    own = replica.pool
    return max(wanted, key=lambda key: (not serving[key], key == own, deficit[key]), default=None)
