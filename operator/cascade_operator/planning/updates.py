"""What is done now towards the target: the safe moves, the best shares on what is ready, and the plan that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from cascade_api.names import pool_name
from cascade_api.plan import Expected, Plan, PlanRow, next_generation
from cascade_api.reasons import Reason
from cascade_api.settings import PlannerSettings

from ..snapshot import Drain, ReplicaState
from . import plans
from .catalogue import with_demand
from .expectations import latency_p99_s
from .moves import Moves, next_moves, pool_of
from .problem import PoolKey, PoolSize
from .shares import Sharing, best_sharing, running_columns
from .situation import Situation, backlog, batches, ready_replicas
from .stages import Role

FULL = 0.97
"""The part of what a stage can carry from which it is full."""
OUTGROWN = 0.1
"""Share of the demand that a move must save from being shed to be worth a gap, and that a gap may shed."""


def lost(it: Situation) -> bool:
    """Whether a replica that the plan in force counts on went away without being asked."""
    if it.view.plan is None:
        return False
    still = {r.id for r in it.view.replicas if r.state in (ReplicaState.READY, ReplicaState.DRAINING)}
    return any(replica.id not in still for pool in it.view.plan.pools for replica in pool.ready)


def moves_now(it: Situation, free: Mapping[str, int], now: float, settings: PlannerSettings) -> Moves:
    """The next safe steps of a cascade, which may use ``free`` accelerators up to its own ceilings."""
    own = Counter(r.accelerator_class for r in it.view.replicas)
    ceilings = it.view.cascade.spec.capacity.accelerators
    return next_moves(
        it.ref,
        replicas=it.view.replicas,
        target={key: size.replicas for key, size in it.memory.pools.items()},
        free={name: max(min(count, ceilings.get(name, 0) - own[name]), 0) for name, count in free.items()},
        left=_left(it, now),
        now=now,
        grace_s=it.objective_s,
        at_once=max(len(it.view.replicas) * settings.moves_percent // 100, 1),
    )


def _left(it: Situation, now: float) -> set[PoolKey]:
    """Pools that the plan in force needs no more and where nothing waits: their last replica may go.

    With unknown queues a pool counts as left one objective after the plan without it was published. A variant
    that the spec no longer has is left at once: no plan may name it.
    """
    ready = ready_replicas(it)
    if it.idle:
        return set(ready)
    names = {variant.name for variant in it.known.spec.variants}
    left = {key for key in ready if key[0] not in names}
    needed = plans.needed(it.view.plan.rows) if it.view.plan is not None else set()
    for key in ready:
        siblings = any(other[0] == key[0] and other != key for other in ready)
        if key[0] in needed and not siblings:
            continue
        depths = it.view.queue_depths
        if depths is None:
            empty = now - it.memory.published_at_s >= it.objective_s
        else:
            empty = depths.get(pool_name(variant=key[0], accelerator_class=key[1]), 0) == 0
        if empty:
            left.add(key)
    return left | _outgrown(it)


def _outgrown(it: Situation) -> set[PoolKey]:
    """The pool of a cascade's only replica, where it cannot carry the load but the target can.

    With one accelerator a move has no safe step: a short gap is the lesser evil beside refusing load for good.
    """
    if len(it.view.replicas) != 1:
        return set()
    only, batch_of = it.view.replicas[0], batches(it)
    pools = {pool_of(only): PoolSize(1, batch_of.get(pool_of(only), 1))}
    problem = with_demand(it.known, demand=it.rate, running={}, running_batch={})
    target = best_sharing(problem, it.memory.pools)
    return set(pools) if best_sharing(problem, pools).shed - target.shed > OUTGROWN else set()


def plan_now(it: Situation, now: float, settings: PlannerSettings) -> Plan | None:
    """The plan to publish, or None where the one in force says the same.

    A parked cascade's plan says so until something is there to serve it: routers keep its requests meanwhile.
    """
    draining = {a.replica_id for a in it.moves.actions if isinstance(a, Drain)}
    replicas = [replace(r, state=ReplicaState.DRAINING) if r.id in draining else r for r in it.view.replicas]
    batch_of = batches(it)
    ready = Counter(pool_of(r) for r in replicas if r.state is ReplicaState.READY)
    pools = {key: PoolSize(count, batch_of.get(key, 1)) for key, count in ready.items()}
    sharing = _sharing(it, pools)
    rows = _rows(it, sharing, ready, settings)
    if not rows:
        return None
    parked = it.idle or (it.memory.parked and not sharing.mixture)
    it.memory = replace(it.memory, parked=parked)
    latency = latency_p99_s(sharing, pools, demand=it.rate, objective_s=it.objective_s)
    it.figures |= {"latency_p99_s": round(latency, 4), "value": round(sharing.value, 4), "shed_now": sharing.shed}
    pools_now = plans.pools_of(it.known, replicas=replicas, target=it.memory.pools, batches=batch_of)
    structure = plans.structure(it.known, cascade=str(it.ref), parked=parked, pools=pools_now)
    last, reason = it.view.plan, it.memory.reason
    if last is not None and not it.memory.store_was_away and plans.has_structure(last, structure, rows):
        if rows == last.rows:
            return None
        reason = it.news or Reason.SHARES_ADJUSTED
    return plans.build(
        it.known,
        structure,
        generation=next_generation(now_s=now, last=it.memory.generation),
        now=now,
        reason=reason,
        rows=rows,
        expected=Expected(
            demand=round(it.rate, 3),
            latency_p99=round(latency, 4),
            quality=round(it.known.problem.frontier.metric(sharing.value), 4),
            cost_per_hour=f"{it.memory.cost_per_hour:.2f}",
        ),
    )


def _sharing(it: Situation, pools: Mapping[PoolKey, PoolSize]) -> Sharing:
    """The best shares on ready pools, without the one to be left, unless much less could be served without it."""
    problem = with_demand(it.known, demand=it.rate, running={}, running_batch={})
    waiting = backlog(it)
    sharing = best_sharing(problem, pools, backlog=waiting)
    if it.moves.vacate is not None:
        kept = {key: size for key, size in pools.items() if key != it.moves.vacate}
        without = best_sharing(problem, kept, backlog=waiting)
        target = best_sharing(problem, it.memory.pools, backlog=waiting)
        # What must be shed anyway, and will not be on the target, may be shed a little longer.
        if without.mixture and (without.shed <= sharing.shed + OUTGROWN or target.shed < sharing.shed):
            return without
    return sharing


def _rows(it: Situation, sharing: Sharing, ready: Mapping[PoolKey, int], settings: PlannerSettings) -> list[PlanRow]:
    """Rows to publish: those in force where the new ones hardly differ, or where nothing at all can be served."""
    names = {variant.name for variant in it.known.spec.variants}
    last = list(it.view.plan.rows) if it.view.plan is not None else []
    if not plans.servable(last, names):
        last = []
    if not sharing.mixture:
        return last
    rows = plans.rows_of(sharing.mixture, it.known, it.view.reports, offer=_offer(it, sharing, ready, settings))
    if not last or (last[0].light, last[0].heavy) != (rows[0].light, rows[0].heavy):
        return rows
    leaves = it.moves.vacate is not None and it.moves.vacate[0] in plans.needed(last) - plans.needed(rows)
    if leaves or not plans.servable(last, {key[0] for key in ready}) or plans.shares_moved(last, rows):
        return rows
    return last


def _offer(it: Situation, sharing: Sharing, ready: Mapping[PoolKey, int], settings: PlannerSettings) -> float:
    """How many of the escalations that fit are asked for, as a factor.

    More than fit where the heavy stage is what holds quality down and what comes too much is degraded: arrivals waver,
    and a heavy replica that waits for work gives quality away.
    """
    if not (it.degrades and it.known.policy.offers_more) or sharing.stages is None:
        return 1.0
    batch_of = batches(it)
    pools = {key: PoolSize(count, batch_of.get(key, 1)) for key, count in ready.items()}
    rate = sum(column.rate * count for column, count in running_columns(sharing.stages, Role.HEAVY, pools))
    carried = it.known.problem.heavy_utilisation * rate
    return settings.escalation_offer if it.rate * sharing.heavy_load >= FULL * carried else 1.0
