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
from .problem import Allocation, CascadeProblem, Problem
from .shares import best_sharing
from .situation import Situation, backlog, batches

RISE = 1.1
"""Demand above what the pools were decided for by this factor lets an emergency decide again at once."""
EMERGENCY_TICKS = 4
"""Ticks between two emergency decisions at the same demand."""
BACKLOG_PART = 1 / 8
"""Part of the objective that the light pools' queue may take to serve before it is an emergency."""


def decide_pools(
    situations: Sequence[Situation],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
) -> None:
    """One allocation for all cascades that can be planned, when any of them is due."""
    planned = [it for it in situations if it.decides]
    for it in planned:
        it.due = _due(it, snapshot, now, settings)
    if not any(it.due for it in planned):
        return
    others = Counter(r.accelerator_class for it in situations if it not in planned for r in it.view.replicas)
    inventory = {name: max(count - others[name], 0) for name, count in (snapshot.inventory or {}).items()}
    problems = tuple(_pool_problem(it, settings) for it in planned)
    answers = allocate(Problem(problems, inventory, prices_per_hour(classes), settings.seed))
    for it, problem in zip(planned, problems, strict=True):
        _adopt(it, problem, answers[it.ref], snapshot, now)


def _due(it: Situation, snapshot: Snapshot, now: float, settings: PlannerSettings) -> Reason | None:
    """Why pools are to be decided now, or None."""
    memory, prepared = it.memory, it.known
    if memory.target is None:
        return Reason.INITIAL_PLAN
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
    if now - memory.decided_at_s >= settings.pool_ticks * tick:
        return Reason.DEMAND_ROSE if it.rate > (memory.decided_demand or 0.0) else Reason.DEMAND_FELL
    return None


def _emergency(it: Situation) -> Reason | None:
    """Whether the target itself cannot carry the load: shares cannot mend that."""
    problem = with_demand(it.known, demand=it.rate, running={}, running_batch={})
    target = best_sharing(problem, it.memory.pools)
    if target.shed > 0:
        return Reason.DEMAND_ROSE
    lights = {s.chain.light for s in problem.stages}
    for key, size in it.memory.pools.items():
        if key[0] not in lights or not size.replicas:
            continue
        waiting = (it.view.queue_depths or {}).get(pool_name(variant=key[0], accelerator_class=key[1]), 0)
        rounds = waiting / size.batch / size.replicas
        seconds = it.known.timings.execution_s(*key).get(size.batch, 0.0)
        if rounds * seconds > BACKLOG_PART * it.objective_s:
            return Reason.BACKLOG_GREW
    return None


def _pool_problem(it: Situation, settings: PlannerSettings) -> CascadeProblem:
    """What the allocation is asked: demand held steady, a light backlog on top, and what runs."""
    demand = steady(
        it.rate,
        planned=it.memory.decided_demand,
        window_s=settings.forecast_window * it.objective_s,
    )
    lights = {s.chain.light for s in it.known.problem.stages}
    waiting = sum(rate for variant, rate in backlog(it).items() if variant in lights)
    running = Counter(pool_of(r) for r in it.view.replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING))
    return with_demand(it.known, demand=demand + waiting, running=running, running_batch=batches(it))


def _adopt(it: Situation, problem: CascadeProblem, answer: Allocation, snapshot: Snapshot, now: float) -> None:
    """Remember the allocation as the target; its reason changes only where the target does."""
    memory = it.memory
    if target_of(answer.pools) != memory.target or it.due in (Reason.SPEC_CHANGED, Reason.PROFILE_CHANGED):
        it.news = it.due or Reason.CAPACITY_CHANGED
    it.memory = replace(
        memory,
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
