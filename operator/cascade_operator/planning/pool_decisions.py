"""Pools: when they are due to be decided, and the allocation that decides them for all cascades at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cascade_api.names import pool_name
from cascade_api.reasons import Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings

from ..snapshot import ReplicaState, Snapshot
from .catalogue import Catalogue, prices_per_hour, with_demand
from .contention import groups
from .demand import bounded_window_s
from .memory import target_of
from .moves import pool_of
from .parking import park, waits_for_requests
from .problem import Allocation, CascadeProblem, PoolKey, PoolSize, Problem
from .shares import best_sharing
from .situation import Situation, backlog, batches, firm_variants

RISE = 1.1
"""Demand above what the pools were decided for by this factor lets an emergency decide again at once."""
JUMP = 1.5
"""The same for demand with what waits on top, which wavers more."""
EMERGENCY_TICKS = 4
"""Ticks between two emergency decisions at the same demand."""
LIGHT_BACKLOG = 1 / 8
"""Part of the objective that a light pool's queue may take to serve before it is an emergency."""
DIRECT_BACKLOG = 1 / 4
"""The same for a pool that prompts reach directly and where they cannot be degraded."""
CHANCE_SIGMAS = 3.0
"""Poisson standard deviations by which demand may exceed its forecast by chance."""
WARY = 10.0
"""Objectives for which another surge is reckoned with after one."""
SLIGHT = 0.01
"""Share of the demand that is not worth keeping pools for."""
DISTRUST = 30.0
"""Objectives for which a profile is not believed after a backlog that the load did not explain."""
EXPLAINS = 0.85
"""The part of what its profile promises from which a pool's load explains a backlog by chance."""
LEAST_PART = 0.5
"""A backlog counts as this many requests at most for each that reach its pool."""


def decide_pools(
    situations: Sequence[Situation],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
    catalogue: Catalogue,
) -> None:
    """One allocation for all cascades that compete for accelerators, when any of them is due."""
    for it in situations:
        if it.decides and it.idle:
            park(it, now)
    planned = [it for it in situations if it.decides and not it.idle]
    for it in planned:
        it.due = _due(it, snapshot, now, settings)
    if not any(it.due for it in planned):
        return
    others = Counter(r.accelerator_class for it in situations if it not in planned for r in it.view.replicas)
    inventory = {name: max(count - others[name], 0) for name, count in (snapshot.inventory or {}).items()}
    prices = prices_per_hour(classes)
    for indices in groups([it.known.problem.accelerators for it in planned], inventory):
        rivals = [planned[index] for index in indices]
        if not any(it.due for it in rivals):
            continue
        problems = tuple(_pool_problem(it, now) for it in rivals)
        answers = catalogue.allocate(Problem(problems, inventory, prices, settings.seed))
        for it, problem in zip(rivals, problems, strict=True):
            answer = answers[it.ref]
            if it.due is Reason.DEMAND_FELL and _careful(it, now, settings) and _too_tight(it, answer, settings):
                # What is held still is what it was made for.
                answer = replace(answer, pools=it.memory.pools)
                problem = replace(problem, demand=max(problem.demand, it.memory.decided_demand or 0.0))
            _adopt(it, problem, answer, snapshot, now)


def _due(it: Situation, snapshot: Snapshot, now: float, settings: PlannerSettings) -> Reason | None:
    """Why pools are to be decided now, or None."""
    memory, prepared = it.memory, it.known
    if memory.target is None:
        return Reason.INITIAL_PLAN
    if waits_for_requests(memory):
        return Reason.DEMAND_ROSE
    if memory.spec_print and memory.spec_print != prepared.spec_print:
        return Reason.SPEC_CHANGED
    if memory.profile_print and memory.profile_print != prepared.profile_print:
        return Reason.PROFILE_CHANGED
    if memory.ceilings and dict(memory.ceilings) != dict(snapshot.inventory or {}):
        return Reason.CAPACITY_CHANGED
    tick = settings.tick_s(it.objective_s)
    decided = memory.decided_demand or 0.0
    rose = it.pool_rate > RISE * decided or _wanted(it) > JUMP * decided
    if rose or now - memory.decided_at_s >= EMERGENCY_TICKS * tick:
        emergency = _emergency(it)
        if emergency is not None:
            return emergency
    if now - memory.decided_at_s >= settings.pool_ticks * tick:
        return Reason.DEMAND_ROSE if it.pool_rate > (memory.decided_demand or 0.0) else Reason.DEMAND_FELL
    return None


def _emergency(it: Situation) -> Reason | None:
    """Whether the target itself cannot carry the load: shares cannot mend that."""
    problem = with_demand(it.known, demand=it.pool_rate, running={}, running_batch={})
    target = best_sharing(problem, it.memory.pools)
    if target.shed > 0:
        return Reason.DEMAND_ROSE
    for key, size in it.memory.pools.items():
        part = _backlog_part(it, key[0])
        if part is not None and _waiting_s(it, key, size) > part * it.objective_s:
            return Reason.BACKLOG_GREW
    return None


def _waiting_s(it: Situation, key: PoolKey, size: PoolSize) -> float:
    """Seconds that a pool of that size takes for what waits for it."""
    waiting = (it.view.queue_depths or {}).get(pool_name(variant=key[0], accelerator_class=key[1]), 0)
    seconds = it.known.timings.execution_s(*key).get(size.batch, 0.0)
    return waiting / size.batch / size.replicas * seconds if size.replicas else 0.0


def _backlog_part(it: Situation, variant: str) -> float | None:
    """Part of the objective that a variant's queue may take; None where what waits can be degraded."""
    if variant not in firm_variants(it):
        return None
    rows = it.view.plan.rows if it.view.plan is not None else []
    return LIGHT_BACKLOG if any(row.light == variant and row.direct < 1 for row in rows) else DIRECT_BACKLOG


def _pool_problem(it: Situation, now: float) -> CascadeProblem:
    """What the allocation is asked: the demand with what waits on top, and what runs.

    While a backlog stands, pools are not made for less than before.
    """
    demand = _wanted(it)
    if it.due is Reason.BACKLOG_GREW:
        demand = max(demand, it.memory.decided_demand or 0.0)
    if now - it.memory.distrust_at_s < DISTRUST * it.objective_s:
        demand = max(demand, it.memory.distrust * it.pool_rate)
    running = Counter(pool_of(r) for r in it.view.replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING))
    return with_demand(it.known, demand=demand, running=running, running_batch=batches(it))


def _wanted(it: Situation) -> float:
    """Prompts per second that new pools must serve: what arrives, and what waits for each that reaches its pool."""
    return it.pool_rate + sum(rate / max(_reached(it, variant), LEAST_PART) for variant, rate in backlog(it).items())


def _reached(it: Situation, variant: str) -> float:
    """Share of the prompts that reach a variant by the plan in force."""
    rows = it.view.plan.rows if it.view.plan is not None else []
    light = sum(row.share * (1 - row.direct) for row in rows if row.light == variant)
    return light + sum(row.share * row.heavy_share for row in rows if row.heavy == variant)


def _promised_too_much(it: Situation, now: float) -> bool:
    """Whether a backlog stands in a pool that should carry its load with ease, and has been there for long enough.

    What waited before the pool was as large as it is has been answered or refused within an objective.
    """
    settled = (r for r in it.view.replicas if r.state is ReplicaState.READY and now - r.since_s >= it.objective_s)
    ready = Counter(pool_of(r) for r in settled)
    rows = it.view.plan.rows if it.view.plan is not None else []
    for key, size in it.memory.pools.items():
        part, seconds = _backlog_part(it, key[0]), it.known.timings.execution_s(*key).get(size.batch, 0.0)
        if part is None or ready[key] < size.replicas or _waiting_s(it, key, size) <= part * it.objective_s:
            continue
        load = it.peak_rate * sum(
            row.share * ((row.light == key[0]) * (1 - row.direct) + (row.heavy == key[0]) * row.heavy_share)
            for row in rows
        )
        if seconds and load < EXPLAINS * size.replicas * size.batch / seconds:
            return True
    return False


def _careful(it: Situation, now: float, settings: PlannerSettings) -> bool:
    """Whether load may be back before pools are: it surged lately, a move takes long, or more replicas than may be."""
    surged = now - it.memory.surged_at_s < WARY * it.objective_s
    return surged or it.moves_slowly or len(it.view.replicas) * settings.moves_percent < 100


def _too_tight(it: Situation, answer: Allocation, settings: PlannerSettings) -> bool:
    """Whether smaller pools would shed load that may come by chance, and that the present target would serve."""
    window_s = bounded_window_s(settings.forecast_window * it.objective_s)
    demand = it.pool_rate + CHANCE_SIGMAS * math.sqrt(it.pool_rate / window_s)
    problem = with_demand(it.known, demand=demand, running={}, running_batch={})
    return best_sharing(problem, answer.pools).shed > best_sharing(problem, it.memory.pools).shed + SLIGHT


def _adopt(it: Situation, problem: CascadeProblem, answer: Allocation, snapshot: Snapshot, now: float) -> None:
    """Remember the allocation as the target; its reason changes only where the target does."""
    memory = it.memory
    if target_of(answer.pools) != memory.target or it.due in (Reason.SPEC_CHANGED, Reason.PROFILE_CHANGED):
        it.news = it.due or Reason.CAPACITY_CHANGED
    slower = it.due is Reason.BACKLOG_GREW and _promised_too_much(it, now)
    it.memory = replace(
        memory,
        distrust=max(problem.demand / it.peak_rate, 1.0) if slower else memory.distrust,
        distrust_at_s=now if slower else memory.distrust_at_s,
        target=target_of(answer.pools),
        reason=it.news or memory.reason,
        verdict=answer.verdict,
        binding=answer.binding,
        cost_per_hour=answer.cost_per_hour,
        decided_at_s=now,
        decided_demand=problem.demand,
        spec_print=it.known.spec_print,
        profile_print=it.known.profile_print,
        ceilings=dict(snapshot.inventory or {}),
    )
    it.figures |= {
        "pool_demand": round(problem.demand, 3),
        "planned_value": round(answer.value, 4),
        "shed": round(answer.shed, 4),
        "switches": float(answer.switches),
    }
