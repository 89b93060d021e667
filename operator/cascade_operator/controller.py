"""decide(snapshot, memory, now, settings) → Decision: what to do next, for every cascade, with no I/O.

Each tick: forecast; where pools are due, one allocation for all cascades that share the cluster; the safe
moves towards it; the best shares on the replicas that are ready; a plan, published only when it says something
new; the status. What is not known is not guessed: the last plan is held and the status says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Expected, Plan, PlanRow, next_generation
from cascade_api.reasons import Reason
from cascade_api.settings import CPU, AcceleratorClass, PlannerSettings

from .planning import plans
from .planning.allocation import allocate
from .planning.catalogue import Catalogue, NotPlannable, Prepared, prices_per_hour, with_demand
from .planning.demand import Forecast, Forecaster, clearing_rate, fast_up_slow_down, steady
from .planning.expectations import latency_p99_s
from .planning.memory import CascadeMemory, Memory, target_of
from .planning.moves import Moves, next_moves, pool_of
from .planning.problem import Allocation, CascadeProblem, PoolKey, PoolSize, Problem
from .planning.shares import Sharing, best_sharing
from .planning.statuses import Findings, status_of, worth_writing
from .snapshot import (
    Action,
    CascadeView,
    Diagnostics,
    Drain,
    Publish,
    ReplicaState,
    SetStatus,
    Snapshot,
    Start,
)

RISE = 1.1
"""Demand above what the pools were decided for by this factor lets an emergency decide again at once."""
EMERGENCY_TICKS = 4
"""Ticks between two emergency decisions at the same demand."""
BACKLOG_PART = 1 / 8
"""Part of the objective that the light pools' queue may take to serve before it is an emergency."""


@dataclass(frozen=True)
class Decision:
    """What to do now, why, what to remember, and when to decide next (Unix seconds)."""

    actions: tuple[Action, ...]
    diagnostics: tuple[Diagnostics, ...]
    memory: Memory
    next_at: float


@dataclass
class _Work:
    """One cascade while a decision is made."""

    view: CascadeView
    memory: CascadeMemory
    prepared: Prepared | None = None
    refused: tuple[Reason, str] | None = None
    held: tuple[Reason, str] | None = None
    rate: float = 0.0
    due: Reason | None = None
    news: Reason | None = None
    moves: Moves = field(default_factory=lambda: Moves((), None, moving=False))
    published: Plan | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def ref(self) -> CascadeRef:
        return self.view.cascade.ref

    @property
    def objective_s(self) -> float:
        return self.view.cascade.spec.objective.latency_s

    @property
    def known(self) -> Prepared:
        """What was prepared; raises LookupError for a cascade that cannot be planned."""
        if self.prepared is None:
            raise LookupError(f"{self.ref} was not prepared")
        return self.prepared

    @property
    def acts(self) -> bool:
        """Whether the cascade is to be changed at all."""
        return self.prepared is not None and self.held is None and self.view.cascade.spec.policy.mode == "auto"


def decide(
    snapshot: Snapshot,
    memory: Memory,
    now: float,
    settings: PlannerSettings,
    *,
    classes: Sequence[AcceleratorClass] = (CPU,),
    catalogue: Catalogue | None = None,
    forecaster: Forecaster = fast_up_slow_down,
) -> Decision:
    """The next decision; ``catalogue`` keeps what follows from specs and profiles and changes no result."""
    catalogue = catalogue or Catalogue()
    works = [_look(view, snapshot, memory, now, settings, classes, catalogue, forecaster) for view in snapshot.cascades]
    catalogue.keep_only({work.ref for work in works})
    _decide_pools(works, snapshot, now, settings, classes)
    free = _free(snapshot)
    actions: list[Action] = []
    for work in works:
        actions += _act(work, snapshot, free, now)
    remembered = Memory({str(work.ref): work.memory for work in works})
    tick = min((settings.tick_s(work.objective_s) for work in works), default=settings.tick_max_s)
    return Decision(tuple(actions), tuple(_diagnose(work) for work in works), remembered, now + tick)


# --- what is known -----------------------------------------------------------------------------------------


def _look(
    view: CascadeView,
    snapshot: Snapshot,
    memory: Memory,
    now: float,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
    catalogue: Catalogue,
    forecaster: Forecaster,
) -> _Work:
    work = _Work(view, memory.of(view.cascade.ref, view.plan))
    if not snapshot.store_available:
        work.memory = replace(work.memory, store_was_away=True)
        work.held = Reason.STORE_AWAY, "Redis cannot be reached: the last plan is held"
    if snapshot.inventory is None:
        work.held = Reason.INVENTORY_UNKNOWN, "the accelerators of the cluster are not known: the last plan is held"
    if view.profile is None:
        name = view.cascade.spec.profile_ref.name
        work.refused = Reason.PROFILE_MISSING, f"spec.profileRef.name: there is no CascadeProfile {name!r}: apply it"
        return work
    try:
        work.prepared = catalogue.prepare(view.cascade, view.profile, settings=settings, classes=classes)
    except NotPlannable as error:
        work.refused = error.reason, str(error)
        return work
    _forecast(work, snapshot, now, settings, forecaster)
    return work


def _forecast(work: _Work, snapshot: Snapshot, now: float, settings: PlannerSettings, forecaster: Forecaster) -> None:
    """The rate to plan for; without demand the last known one, at first one request per objective."""
    least = 1 / work.objective_s
    last = work.memory.forecast
    if work.view.demand is not None and snapshot.store_available:
        window_s = settings.forecast_window * work.objective_s
        last = forecaster(work.view.demand, now=now, window_s=window_s, last=last)
        work.memory = replace(work.memory, forecast=last)
        rate = last.rate * settings.forecast_margin
    elif last is not None:
        rate = last.rate * settings.forecast_margin
    else:
        rate = work.memory.decided_demand or least
        work.memory = replace(work.memory, forecast=Forecast(rate / settings.forecast_margin, now))
    work.rate = max(rate, least)
    work.figures["demand"] = round(work.rate, 3)


def _free(snapshot: Snapshot) -> dict[str, int]:
    """Accelerators that no replica of any cascade sits on."""
    used = Counter(r.accelerator_class for view in snapshot.cascades for r in view.replicas)
    return {name: max(count - used[name], 0) for name, count in (snapshot.inventory or {}).items()}


# --- pools -------------------------------------------------------------------------------------------------


def _decide_pools(
    works: Sequence[_Work],
    snapshot: Snapshot,
    now: float,
    settings: PlannerSettings,
    classes: Sequence[AcceleratorClass],
) -> None:
    """One allocation for all cascades that can be planned, when any of them is due."""
    planned = [work for work in works if work.prepared is not None and work.held is None and _decides(work)]
    for work in planned:
        work.due = _due(work, snapshot, now, settings)
    if not any(work.due for work in planned):
        return
    others = Counter(r.accelerator_class for w in works if w not in planned for r in w.view.replicas)
    inventory = {name: max(count - others[name], 0) for name, count in (snapshot.inventory or {}).items()}
    problems = tuple(_pool_problem(work, settings) for work in planned)
    answers = allocate(Problem(problems, inventory, prices_per_hour(classes), settings.seed))
    for work, problem in zip(planned, problems, strict=True):
        _adopt(work, problem, answers[work.ref], snapshot, now)


def _decides(work: _Work) -> bool:
    return work.view.cascade.spec.policy.mode != "paused"


def _due(work: _Work, snapshot: Snapshot, now: float, settings: PlannerSettings) -> Reason | None:
    """Why pools are to be decided now, or None."""
    memory, prepared = work.memory, work.known
    assert prepared is not None  # noqa: S101 (callers pass only what was prepared)
    if memory.target is None:
        return Reason.INITIAL_PLAN
    if memory.spec_print and memory.spec_print != prepared.spec_print:
        return Reason.SPEC_CHANGED
    if memory.profile_print and memory.profile_print != prepared.profile_print:
        return Reason.PROFILE_CHANGED
    if memory.ceilings and dict(memory.ceilings) != dict(snapshot.inventory or {}):
        return Reason.CAPACITY_CHANGED
    tick = settings.tick_s(work.objective_s)
    rose = work.rate > RISE * (memory.decided_demand or 0.0)
    if rose or now - memory.decided_at_s >= EMERGENCY_TICKS * tick:
        emergency = _emergency(work)
        if emergency is not None:
            return emergency
    if now - memory.decided_at_s >= settings.pool_ticks * tick:
        return Reason.DEMAND_ROSE if work.rate > (memory.decided_demand or 0.0) else Reason.DEMAND_FELL
    return None


def _emergency(work: _Work) -> Reason | None:
    """Whether the target itself cannot carry the load: shares cannot mend that."""
    problem = with_demand(work.known, demand=work.rate, running={}, running_batch={})
    target = best_sharing(problem, work.memory.pools)
    if target.shed > 0:
        return Reason.DEMAND_ROSE
    depths = work.view.queue_depths or {}
    for (variant, accelerator_class), size in work.memory.pools.items():
        if not any(s.chain.light == variant for s in problem.stages):
            continue
        waiting = depths.get(pool_name(variant=variant, accelerator_class=accelerator_class), 0)
        seconds = work.known.timings.execution_s(variant, accelerator_class).get(size.batch, 0.0)
        if size.replicas and waiting * seconds / size.batch / size.replicas > BACKLOG_PART * work.objective_s:
            return Reason.BACKLOG_GREW
    return None


def _pool_problem(work: _Work, settings: PlannerSettings) -> CascadeProblem:
    """What the allocation is asked: demand held steady, a light backlog on top, and what runs."""
    demand = steady(
        work.rate,
        planned=work.memory.decided_demand,
        window_s=settings.forecast_window * work.objective_s,
    )
    backlog = 0.0
    for variant, rate in _backlog(work).items():
        if any(s.chain.light == variant for s in work.known.problem.stages):
            backlog += rate
    running = Counter(pool_of(r) for r in work.view.replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING))
    return with_demand(work.known, demand=demand + backlog, running=running, running_batch=_batches(work))


def _adopt(work: _Work, problem: CascadeProblem, answer: Allocation, snapshot: Snapshot, now: float) -> None:
    """Remember the allocation as the target; its reason changes only where the target does."""
    memory = work.memory
    if target_of(answer.pools) != memory.target or work.due in (Reason.SPEC_CHANGED, Reason.PROFILE_CHANGED):
        work.news = work.due or Reason.CAPACITY_CHANGED
    work.memory = replace(
        memory,
        target=target_of(answer.pools),
        reason=work.news or memory.reason,
        verdict=answer.verdict,
        binding=answer.binding,
        cost_per_hour=answer.cost_per_hour,
        decided_at_s=now,
        decided_demand=problem.demand,
        spec_print=work.known.spec_print,
        profile_print=work.known.profile_print,
        ceilings=dict(snapshot.inventory or {}),
    )
    work.figures |= {
        "pool_demand": round(problem.demand, 3),
        "planned_value": round(answer.value, 4),
        "shed": round(answer.shed, 4),
        "switches": float(answer.switches),
    }


def _batches(work: _Work) -> dict[PoolKey, int]:
    """Batch size by pool: the target's, else the plan's in force."""
    batches = {(p.variant, p.accelerator_class): p.batch for p in work.view.plan.pools} if work.view.plan else {}
    return batches | {key: size.batch for key, size in work.memory.pools.items()}


def _backlog(work: _Work) -> dict[str, float]:
    """Requests per second by variant that clear what waits beyond two rounds of its replicas."""
    rates: dict[str, float] = {}
    batches = _batches(work)
    ready = Counter(pool_of(r) for r in work.view.replicas if r.state is ReplicaState.READY)
    for key, replicas in ready.items():
        depth = (work.view.queue_depths or {}).get(pool_name(variant=key[0], accelerator_class=key[1]), 0)
        excess = depth - 2 * replicas * batches.get(key, 1)
        if excess > 0:
            rates[key[0]] = rates.get(key[0], 0.0) + clearing_rate(excess, objective_s=work.objective_s)
    return rates


# --- moves, shares, plan, status ---------------------------------------------------------------------------


def _act(work: _Work, snapshot: Snapshot, free: dict[str, int], now: float) -> list[Action]:
    """What one cascade needs done now, plans before replicas are drained; takes what it starts from ``free``."""
    actions: list[Action] = []
    if work.acts:
        if _lost(work):
            work.memory = replace(work.memory, reason=Reason.REPLICAS_CHANGED)
        work.moves = _moves(work, free, now)
        plan = _plan(work, now)
        if plan is not None:
            work.published = plan
            work.memory = replace(work.memory, generation=plan.generation, published_at_s=now, store_was_away=False)
            actions.append(Publish(plan))
        for action in work.moves.actions:
            actions.append(action)
            if isinstance(action, Start) and action.replica_id is None:
                free[action.accelerator_class] = free.get(action.accelerator_class, 0) - 1
    status = status_of(
        work.view.cascade,
        plan=work.published or work.view.plan,
        replicas=work.view.replicas,
        findings=_findings(work, snapshot),
        before=work.view.status,
        now=now,
    )
    if worth_writing(work.view.status, status):
        actions.append(SetStatus(work.ref, status))
    return actions


def _lost(work: _Work) -> bool:
    """Whether a replica that the plan in force counts on went away without being asked."""
    if work.view.plan is None:
        return False
    still = {r.id for r in work.view.replicas if r.state in (ReplicaState.READY, ReplicaState.DRAINING)}
    return any(replica.id not in still for pool in work.view.plan.pools for replica in pool.ready)


def _moves(work: _Work, free: Mapping[str, int], now: float) -> Moves:
    own = Counter(r.accelerator_class for r in work.view.replicas)
    ceilings = work.view.cascade.spec.capacity.accelerators
    return next_moves(
        work.ref,
        replicas=work.view.replicas,
        target={key: size.replicas for key, size in work.memory.pools.items()},
        free={name: max(min(count, ceilings.get(name, 0) - own[name]), 0) for name, count in free.items()},
        left=_left(work, now),
        now=now,
        grace_s=work.objective_s,
    )


def _left(work: _Work, now: float) -> set[PoolKey]:
    """Pools that the plan in force needs no more and where nothing waits: their last replica may go.

    With unknown queues a pool counts as left one objective after the plan without it was published.
    """
    plan = work.view.plan
    if plan is None:
        return set()
    needed = plans.needed(plan.rows)
    ready = Counter(pool_of(r) for r in work.view.replicas if r.state is ReplicaState.READY)
    left = set()
    for key in ready:
        siblings = any(other[0] == key[0] and other != key for other in ready)
        if key[0] in needed and not siblings:
            continue
        depths = work.view.queue_depths
        if depths is None:
            empty = now - work.memory.published_at_s >= work.objective_s
        else:
            empty = depths.get(pool_name(variant=key[0], accelerator_class=key[1]), 0) == 0
        if empty:
            left.add(key)
    return left


def _plan(work: _Work, now: float) -> Plan | None:
    """The plan to publish, or None where the one in force says the same."""
    draining = {a.replica_id for a in work.moves.actions if isinstance(a, Drain)}
    replicas = [replace(r, state=ReplicaState.DRAINING) if r.id in draining else r for r in work.view.replicas]
    batches = _batches(work)
    ready = Counter(pool_of(r) for r in replicas if r.state is ReplicaState.READY)
    pools = {key: PoolSize(count, batches.get(key, 1)) for key, count in ready.items()}
    sharing = _sharing(work, pools)
    last = work.view.plan
    if sharing.mixture:
        rows = plans.rows_of(sharing.mixture, work.known, work.view.reports)
    elif last is not None:
        rows = list(last.rows)
    else:
        return None
    if last is not None and plans.servable(last.rows, {key[0] for key in pools}) and not _leaving(work, last.rows):
        same_chain = (last.rows[0].light, last.rows[0].heavy) == (rows[0].light, rows[0].heavy)
        if same_chain and not plans.shares_moved(last.rows, rows):
            rows = list(last.rows)
    demand = work.rate
    latency = latency_p99_s(sharing, pools, demand=demand, objective_s=work.objective_s)
    work.figures |= {"latency_p99_s": round(latency, 4), "value": round(sharing.value, 4), "shed_now": sharing.shed}
    plan = plans.build(
        work.known,
        cascade=str(work.ref),
        generation=next_generation(now_s=now, last=work.memory.generation),
        now=now,
        reason=work.memory.reason,
        rows=rows,
        pools=plans.pools_of(work.known, replicas=replicas, target=work.memory.pools, batches=batches),
        expected=Expected(
            demand=round(demand, 3),
            latency_p99=round(latency, 4),
            quality=round(work.known.problem.frontier.metric(sharing.value), 4),
            cost_per_hour=f"{work.memory.cost_per_hour:.2f}",
        ),
    )
    return _worth_publishing(work, plan)


def _sharing(work: _Work, pools: Mapping[PoolKey, PoolSize]) -> Sharing:
    """The best shares on ready pools, without the one to be left, unless nothing could be served without it."""
    problem = with_demand(work.known, demand=work.rate, running={}, running_batch={})
    backlog = _backlog(work)
    if work.moves.vacate is not None or work.moves.moving:
        leaving = _leaving_keys(work)
        kept = {key: size for key, size in pools.items() if key not in leaving}
        sharing = best_sharing(problem, kept, backlog=backlog)
        if sharing.mixture:
            return sharing
    return best_sharing(problem, pools, backlog=backlog)


def _leaving_keys(work: _Work) -> set[PoolKey]:
    return {work.moves.vacate} if work.moves.vacate else set()


def _leaving(work: _Work, rows: Sequence[PlanRow]) -> bool:
    return any(key[0] in plans.needed(rows) for key in _leaving_keys(work))


def _worth_publishing(work: _Work, plan: Plan) -> Plan | None:
    last = work.view.plan
    if last is None or work.memory.store_was_away:
        return plan
    if not plans.same_structure(last, plan):
        return plan
    if plan.rows != last.rows:
        return plan.model_copy(update={"reason": work.news or Reason.SHARES_ADJUSTED})
    return None


def _findings(work: _Work, snapshot: Snapshot) -> Findings:
    memory = work.memory
    return Findings(
        refused=work.refused,
        held=work.held,
        metrics_missing=work.view.demand is None,
        store_available=snapshot.store_available,
        routers=len(work.view.reports),
        verdict=memory.verdict,
        binding=memory.binding,
        moving=work.moves.moving,
        target=memory.pools,
        cost_per_hour=f"{memory.cost_per_hour:.2f}",
    )


def _diagnose(work: _Work) -> Diagnostics:
    """Why, for logs: the reason of the plan sent, else what holds, else steady."""
    if work.refused is not None:
        return Diagnostics(work.ref, str(work.refused[0]), work.figures, (work.refused[1],))
    if work.held is not None:
        return Diagnostics(work.ref, str(work.held[0]), work.figures, (work.held[1],))
    reason = work.published.reason if work.published else Reason.STEADY
    return Diagnostics(work.ref, str(reason), work.figures, work.memory.binding)
