"""The next safe steps from the replicas that run to those that are wanted.

With a free accelerator: start there, wait until it is ready, shift, then drain what is left over. Without one:
drain one replica, and once it is empty start its successor in place. Never a pool's last ready replica while
the rows in force need it: such a pool is first named in `Moves.vacate`, so that the caller publishes rows
without it, and is drained when the caller says that it was left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cascade_api.names import CascadeRef

from ..snapshot import Drain, Replica, ReplicaState, Start, Stop
from .problem import PoolKey


@dataclass(frozen=True)
class Moves:
    """Steps to take now. ``vacate`` is the pool that rows must leave first; ``moving``: the target is not reached."""

    actions: tuple[Start | Drain | Stop, ...]
    vacate: PoolKey | None
    moving: bool


def pool_of(replica: Replica) -> PoolKey:
    """The pool that a replica belongs to, by what it serves or is loading."""
    return replica.variant, replica.accelerator_class


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
    serving = Counter(pool_of(r) for r in replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING))
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
            (r for r in replicas if pool_of(r) == key and r.state is ReplicaState.READY),
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
    own = pool_of(replica)
    return max(wanted, key=lambda key: (not serving[key], key == own, deficit[key]), default=None)
