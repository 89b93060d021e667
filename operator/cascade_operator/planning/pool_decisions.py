"""Pools: when they are due to be decided, and the allocation that decides them for all cascades at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cascade_api.names import pool_name
from cascade_api.reasons import Reason
from cascade_api.settings import AcceleratorClass, PlannerSettings

from ..snapshot import ReplicaState, Snapshot
from .allocation import allocate
from .catalogue import prices_per_hour, with_demand
from .demand import steady
from .memory import target_of
from .moves import pool_of
from .parking import park, waits_for_requests
from .problem import Allocation, CascadeProblem, Problem
from .shares import best_sharing
from .situation import Situation, backlog, batches

RISE = 1.1
"""Demand above what the pools were decided for by this factor lets an emergency decide again at once."""
EMERGENCY_TICKS = 4
"""Ticks between two emergency decisions at the same demand."""
LIGHT_BACKLOG = 1 / 8
"""Part of the objective that a light pool's queue may take to serve before it is an emergency."""
DIRECT_BACKLOG = 1 / 4
"""The same for a pool that prompts reach directly and where they cannot be degraded."""
DISTRUST = 30.0
"""Objectives for which a demand that grew a backlog is not believed to be smaller, unless it halved."""
LEAST_PART = 0.5
"""A backlog counts as this many requests at most for each that reach its pool."""


def decide_pools(
    situations: Sequence[Situation],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
) -> None:
    """One allocation for all cascades that can be planned, when any of them is due."""
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
    problems = tuple(_pool_problem(it, now, settings) for it in planned)
    answers = allocate(Problem(problems, inventory, prices_per_hour(classes), settings.seed))
    for it, problem in zip(planned, problems, strict=True):
        _adopt(it, problem, answers[it.ref], snapshot, now)


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
    rose = it.rate > RISE * (memory.decided_demand or 0.0)
    if rose or now - memory.decided_at_s >= EMERGENCY_TICKS * tick:
        emergency = _emergency(it)
        if emergency is not None:
            return emergency
    # On its way down the demand passes regimes that are not worth two switches.
    if now - memory.decided_at_s >= settings.pool_ticks * tick and not it.falling:
        return Reason.DEMAND_ROSE if it.rate > (memory.decided_demand or 0.0) else Reason.DEMAND_FELL
    return None


def _emergency(it: Situation) -> Reason | None:
    """Whether the target itself cannot carry the load: shares cannot mend that."""
    problem = with_demand(it.known, demand=it.rate, running={}, running_batch={})
    target = best_sharing(problem, it.memory.pools)
    if target.shed > 0:
        return Reason.DEMAND_ROSE
    for key, size in it.memory.pools.items():
        part = _backlog_part(it, key[0])
        if part is None or not size.replicas:
            continue
        waiting = (it.view.queue_depths or {}).get(pool_name(variant=key[0], accelerator_class=key[1]), 0)
        rounds = waiting / size.batch / size.replicas
        seconds = it.known.timings.execution_s(*key).get(size.batch, 0.0)
        if rounds * seconds > part * it.objective_s:
            return Reason.BACKLOG_GREW
    return None


def _backlog_part(it: Situation, variant: str) -> float | None:
    """Part of the objective that a variant's queue may take; None where what waits can be degraded."""
    rows = it.view.plan.rows if it.view.plan is not None else []
    if any(row.light == variant and row.direct < 1 for row in rows):
        return LIGHT_BACKLOG
    return DIRECT_BACKLOG if any(row.heavy == variant and row.direct > 0 for row in rows) else None


def _pool_problem(it: Situation, now: float, settings: PlannerSettings) -> CascadeProblem:
    """What the allocation is asked: demand held steady, what waits on top, and what runs.

    A backlog is expressed as prompts: what waits for a pool, for each prompt that reaches it. Where one grew, the
    profile promised too much, so the demand it was cleared at holds on for a while.
    """
    demand = steady(
        it.rate,
        planned=it.memory.decided_demand,
        window_s=settings.forecast_window * it.objective_s,
    )
    demand += sum(rate / max(_reached(it, variant), LEAST_PART) for variant, rate in backlog(it).items())
    held = it.memory.backlog_demand
    if now - it.memory.backlog_at_s < DISTRUST * it.objective_s and it.rate > held / 2:
        demand = max(demand, held)
    running = Counter(pool_of(r) for r in it.view.replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING))
    return with_demand(it.known, demand=demand, running=running, running_batch=batches(it))


def _reached(it: Situation, variant: str) -> float:
    """Share of the prompts that reach a variant by the plan in force."""
    rows = it.view.plan.rows if it.view.plan is not None else []
    light = sum(row.share * (1 - row.direct) for row in rows if row.light == variant)
    return light + sum(row.share * row.heavy_share for row in rows if row.heavy == variant)


def _adopt(it: Situation, problem: CascadeProblem, answer: Allocation, snapshot: Snapshot, now: float) -> None:
    """Remember the allocation as the target; its reason changes only where the target does."""
    memory = it.memory
    if target_of(answer.pools) != memory.target or it.due in (Reason.SPEC_CHANGED, Reason.PROFILE_CHANGED):
        it.news = it.due or Reason.CAPACITY_CHANGED
    grew = it.due is Reason.BACKLOG_GREW
    it.memory = replace(
        memory,
        backlog_demand=problem.demand if grew else memory.backlog_demand,
        backlog_at_s=now if grew else memory.backlog_at_s,
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
