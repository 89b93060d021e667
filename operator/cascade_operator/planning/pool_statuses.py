"""The status of a WorkerPool: its conditions, its workers, what these host, and how their time is divided.

As with a cascade's, it is written only when it changes, and a change of the division alone is not worth writing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from cascade_api.names import CascadeRef
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import Condition, PoolUser, PoolWeights, WorkerPoolStatus, merge_conditions

from ..snapshot import HostState, PoolView, WorkerState
from .division import Divisions
from .memory import Target
from .observed import ready_hosts
from .plans import timestamp
from .shared_pools import SharedPool
from .statuses import Truth
from .targets import TargetDecision

SHOWN = 64
"""Most cascades, and most weights, that a status lists."""
LONGEST_LIST = 256

_Found = tuple[ConditionType, Truth, Reason, str]


def pool_status(
    pool: SharedPool,
    view: PoolView,
    decided: Mapping[CascadeRef, TargetDecision],
    division: Divisions,
    *,
    classes: Collection[str],
    now: float,
) -> WorkerPoolStatus | None:
    """The status to report; None if the one that the pool has says the same.

    ``decided`` has the targets of all cascades, and ``classes`` are the accelerator classes that the operator knows.
    """
    target = decided[pool.planned[0].ref].target if pool.acts and pool.planned else None
    wanted = sum(target.workers.values()) if target is not None and target.pool_print else len(pool.workers)
    ready = sum(worker.state is WorkerState.READY for worker in pool.workers)
    generation = view.pool.metadata.generation
    conditions = [
        Condition(type=kind, status=truth, reason=reason, message=message[:1024], observed_generation=generation)
        for kind, truth, reason, message in (_ready(pool, wanted, ready), _accepted(view, classes))
    ]
    status = WorkerPoolStatus(
        observed_generation=generation,
        conditions=merge_conditions(view.status.conditions if view.status else [], conditions, now=timestamp(now)),
        workers=f"{ready}/{wanted}",
        cascade_count=len(pool.cascades),
        cascades=_users(pool, decided, division),
        weights=_weights(pool),
        cost_per_hour=f"{(pool.price_per_hour or 0.0) * len(pool.workers):.2f}",
    )
    return status if _worth_writing(view.status, status) else None


def _accepted(view: PoolView, classes: Collection[str]) -> _Found:
    kind, name = ConditionType.ACCEPTED, view.pool.spec.accelerator_class
    if view.complaint is not None:
        return kind, "False", *view.complaint
    if name not in classes:
        known = ", ".join(sorted(classes))
        return kind, "False", Reason.INVALID_SPEC, f"spec.class: the operator has no class {name!r}, but {known}"
    return kind, "True", Reason.VALID, "spec can be planned"


def _ready(pool: SharedPool, wanted: int, ready: int) -> _Found:
    kind = ConditionType.READY
    failed = sorted((w.id, w.problem) for w in pool.workers if w.state is WorkerState.FAILED)
    if failed:
        names = ", ".join(f"{name} ({problem})" if problem else name for name, problem in failed)
        return kind, "False", Reason.REPLICAS_FAILING, f"failed: {names}"
    if ready < wanted:
        return kind, "False", Reason.REPLICAS_STARTING, "fewer workers are ready than wanted"
    if not wanted:
        return kind, "True", Reason.PARKED, "no cascade needs a worker now"
    return kind, "True", Reason.AS_PLANNED, "all workers that are wanted are ready"


def _users(pool: SharedPool, decided: Mapping[CascadeRef, TargetDecision], division: Divisions) -> list[PoolUser]:
    """Its cascades with their parts of the time of all workers that are ready."""
    hosts = ready_hosts(pool.workers, pool.leaving)
    everything = sum(hosts.values())
    found = []
    for seen in sorted(pool.cascades, key=lambda seen: seen.ref.name)[:SHOWN]:
        part = 0.0
        if seen.prepared is not None and everything and (seen.acts or seen.view.plan is not None):
            part = division.placement(seen, hosts, decided[seen.ref].target or Target()).workers / everything
        found.append(PoolUser(name=seen.ref.name, percent=round(100 * part)))
    return found


def _weights(pool: SharedPool) -> list[PoolWeights]:
    """What its workers host, by the variants of its cascades; weights that nobody has any more are on their way out."""
    hosts = Counter(digest for worker in pool.workers for digest in worker.hosting(HostState.READY))
    variants: defaultdict[str, list[str]] = defaultdict(list)
    for seen in pool.cascades:
        for variant in seen.view.cascade.spec.variants:
            variants[variant.weights.digest].append(f"{seen.ref.name}/{variant.name}")
    named = {", ".join(sorted(names))[:LONGEST_LIST]: hosts[digest] for digest, names in variants.items()}
    return [PoolWeights(variants=names, workers=count) for names, count in sorted(named.items())[:SHOWN]]


def _worth_writing(before: WorkerPoolStatus | None, after: WorkerPoolStatus) -> bool:
    """Whether a status differs in more than the division of the time."""
    if before is None:
        return True
    names = [user.name for user in before.cascades], [user.name for user in after.cascades]
    others = WorkerPoolStatus.model_fields.keys() - {"cascades"}
    return names[0] != names[1] or any(getattr(before, name) != getattr(after, name) for name in others)
