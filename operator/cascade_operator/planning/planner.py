"""A decision on one page: Observed → Forecast → Target → Moves → Plan, for every cascade of one operator, without I/O.

Each stage is a pure function of the stages before it and of the memory, and its result is frozen. Pools are decided
for all cascades together, since they compete for accelerators. The workers of a WorkerPool are moved for all of its
cascades together. Everything else is decided for one cascade at a time, with the part of the time of a WorkerPool that
the cascade has (`division`).
The planner does not guess: if something that it needs is unknown, it keeps the last plan, and the status says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cascade_api.reasons import Reason
from cascade_api.settings import CPU, AcceleratorClass, PlannerSettings
from cascade_api.status import WorkerPoolStatus

from ..snapshot import Action, Diagnostics, HostState, PoolRef, Publish, SetStatus, Snapshot, WorkerState
from .allocation import Placement
from .division import Divisions
from .forecast import Forecast, forecast
from .memory import CascadeMemory, Memory, Target
from .moves import Moves, decide_former_moves, decide_moves, decide_pool_moves, started
from .observed import Observed, observe
from .pool_statuses import pool_status
from .prepared import Preparations, prices_per_hour
from .publish import Publication, publication
from .shared_pools import shared_pools
from .sizes import next_mix
from .statuses import Findings, StatusReports
from .targets import Allocations, TargetDecision, decide_targets, judged

FIGURE_DIGITS: Final = 4


@dataclass(frozen=True)
class Decision:
    """What to do now, why, what to remember, and when to decide next (Unix seconds)."""

    actions: tuple[Action, ...]
    diagnostics: tuple[Diagnostics, ...]
    memory: Memory
    next_at: float
    pool_statuses: Mapping[PoolRef, WorkerPoolStatus] = field(default_factory=dict)
    """Statuses of WorkerPools that say anything new."""


class Planner:
    """Decides for all cascades of one operator. It keeps only caches: equal arguments give equal decisions.

    Args:
        settings: constants of the planner.
        classes: accelerator classes of the cluster, with their prices and memory.
    """

    def __init__(self, settings: PlannerSettings, *, classes: Sequence[AcceleratorClass] = (CPU,)) -> None:
        self._settings = settings
        self._prices = prices_per_hour(classes)
        self._classes = tuple(known.name for known in classes)
        self.preparations = Preparations(settings, classes)
        self._allocations = Allocations()
        self._reports = StatusReports()

    def decide(self, snapshot: Snapshot, memory: Memory, now: float) -> Decision:
        """The next decision at ``now`` (Unix seconds)."""
        settings = self._settings
        observed = [observe(view, snapshot, memory, now, self.preparations) for view in snapshot.cascades]
        self._keep_only(observed)
        forecasts = {seen.ref: forecast(seen, now, settings) for seen in observed if seen.prepared is not None}
        pools = shared_pools(observed, snapshot, self._prices)
        division = Divisions(observed, forecasts)
        targets = decide_targets(
            observed,
            forecasts,
            snapshot,
            now,
            settings,
            pools=pools,
            division=division,
            prices_per_hour=self._prices,
            allocations=self._allocations,
        )
        targets = judged(observed, forecasts, targets, division)
        free = snapshot.free
        actions: list[Action] = []
        diagnostics: list[Diagnostics] = []
        remembered: dict[str, CascadeMemory] = {}
        in_pools: dict[PoolRef, Moves] = {}
        for pool in pools:
            if pool.acts:
                in_pools[pool.ref] = decide_pool_moves(pool, targets, free, now, settings)
                free = free - started(in_pools[pool.ref])
        for seen in observed:
            expected, decided, said = forecasts.get(seen.ref), targets[seen.ref], None
            moves = Moves(leaving=seen.leaving)
            if seen.pool is not None:
                moves = in_pools.get(seen.pool, moves)
            if seen.acts and expected is not None:
                if lost_worker(seen):
                    decided = replace(decided, reason=Reason.REPLICAS_CHANGED)
                if seen.pool is None:
                    moves = decide_moves(seen, expected, decided, free, now, settings)
                    free = free - started(moves)
                elif any(worker.pool != seen.pool for worker in seen.workers):
                    former = decide_former_moves(seen, snapshot.free, now)
                    moves = replace(moves, actions=(*moves.actions, *former.actions))
                    actions += former.actions
                said = publication(seen, expected, decided, moves, division, now, settings)
            # The plan comes before the moves, so that routers leave a replica before it is drained.
            actions += [Publish(said.plan)] if said is not None and said.plan is not None else []
            actions += moves.actions if seen.pool is None else ()
            actions += self._report(seen, decided, moves, said, now)
            diagnostics.append(diagnose(seen, expected, decided, said))
            remembered[str(seen.ref)] = remember(seen, expected, decided, moves, said, now)
        actions += [action for moves in in_pools.values() for action in moves.actions]
        tick_s = min((settings.tick_s(seen.objective_s) for seen in observed), default=settings.tick_max_s)
        statuses = {
            pool.ref: status
            for pool, view in zip(pools, snapshot.pools, strict=True)
            if (status := pool_status(pool, view, targets, division, classes=self._classes, now=now)) is not None
        }
        return Decision(tuple(actions), tuple(diagnostics), Memory(remembered), now + tick_s, statuses)

    def _keep_only(self, observed: Sequence[Observed]) -> None:
        refs = {seen.ref for seen in observed}
        self.preparations.keep_only(refs)
        self._allocations.keep_only(refs)
        self._reports.keep_only(refs)

    def _report(
        self, seen: Observed, decided: TargetDecision, moves: Moves, said: Publication | None, now: float
    ) -> list[SetStatus]:
        """The action that writes the status, if the status says anything new."""
        target, parked = decided.target, said.parked if said is not None else decided.parked
        aimed = Placement(decided.workers)
        if seen.prepared is not None:
            aimed = seen.placement(decided.workers, target or Target())
        findings = Findings(
            refused=seen.refused and (seen.view.complaint or seen.refused),
            complaint=seen.view.complaint,
            held=seen.held,
            metrics_missing=seen.view.demand is None,
            store_available=seen.store_available,
            routers=len(seen.view.reports),
            verdict=target.verdict if target is not None else Reason.OPTIMAL,
            binding=target.binding if target is not None else (),
            moving=moves.moving,
            parked=seen.idle or (parked and not decided.sizes),
            target=decided.sizes,
            workers=int(aimed.workers),
            ready=seen.placement(seen.ready, target or Target()) if seen.prepared is not None else Placement(),
            cost_per_hour=f"{target.cost_per_hour if target is not None else 0.0:.2f}",
            floor=target.floor if target is not None else None,
        )
        plan = said.plan if said is not None and said.plan is not None else seen.view.plan
        status = self._reports.new(seen.view, workers=seen.workers, plan=plan, findings=findings, now=now)
        return [] if status is None else [SetStatus(seen.ref, status)]


def lost_worker(seen: Observed) -> bool:
    """Whether weights that a worker serves in the plan in force failed there, or disappeared with it."""
    if seen.view.plan is None:
        return False
    here = (WorkerState.READY, WorkerState.DRAINING)
    ready = {w.id: set(w.hosting(HostState.READY)) for w in seen.workers if w.state in here}
    return any(
        count and seen.view.plan.variants[name].weights not in ready.get(worker.id, ())
        for worker in seen.view.plan.workers
        if worker.state == "ready"
        for name, count in worker.credits.items()
    )


def remember(
    seen: Observed,
    expected: Forecast | None,
    decided: TargetDecision,
    moves: Moves,
    said: Publication | None,
    now: float,
) -> CascadeMemory:
    """What the next decision must know about this one."""
    memory = replace(
        seen.memory,
        target=decided.target,
        reason=decided.reason,
        store_was_away=seen.store_was_away,
        parked=said.parked if said is not None else decided.parked,
        asked_at_s=seen.asked_at_s,
        slowdowns=seen.slowdowns(now),
        mix=next_mix(seen.view.cascade.spec.sizes, reports=seen.view.reports, last=seen.memory.mix),
        leaving=moves.leaving,
    )
    if expected is not None:
        memory = replace(memory, arrivals=expected.arrivals, surged_at_s=expected.surged_at_s)
        memory = replace(memory, floor=seen.floor_account(expected.rate))
    if said is not None and said.plan is not None:
        memory = replace(memory, generation=said.plan.generation, published_at_s=now, store_was_away=False)
    return memory


def diagnose(
    seen: Observed, expected: Forecast | None, decided: TargetDecision, said: Publication | None
) -> Diagnostics:
    """Why the cascade is planned as it is, for logs, with the figures of this tick.

    The reason is why it cannot be planned or is held; else the reason of the plan that is published in this tick; else
    ``Steady``.
    """
    reason, binding = Reason.STEADY, decided.target.binding if decided.target is not None else ()
    if said is not None and said.plan is not None:
        reason = said.plan.reason
    for why in (seen.held, seen.refused):
        if why is not None:
            reason, binding = why[0], (why[1],)
    found = Diagnostics(seen.ref, str(reason), binding)
    if expected is not None:
        found = replace(found, demand=round(expected.rate, 3))
    realised = seen.memory.floor.realised
    if seen.prepared is not None and realised is not None:
        found = replace(found, realised_quality=round(seen.prepared.problem.frontier.metric(realised), FIGURE_DIGITS))
    if decided.allocation is not None and decided.target is not None:
        found = replace(
            found,
            pool_demand=round(decided.target.demand, 3),
            planned_value=round(decided.allocation.value, FIGURE_DIGITS),
            shed=round(decided.allocation.shed, FIGURE_DIGITS),
            switches=decided.allocation.switches,
        )
    if said is not None:
        found = replace(
            found,
            latency_p99_s=round(said.latency_p99_s, FIGURE_DIGITS),
            degraded=round(said.degraded, FIGURE_DIGITS),
            value=round(said.value, FIGURE_DIGITS),
            shed_now=round(said.shed, FIGURE_DIGITS),
        )
    return found
