"""decide(snapshot, memory, now, settings) → Decision: what to do next, for every cascade, with no I/O.

Each tick: forecast; where pools are due, one allocation for all cascades that share the cluster; the safe
moves towards it; the best shares on the replicas that are ready; a plan, published only when it says something
new; the status. What is not known is not guessed: the last plan is held and the status says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cascade_api.reasons import Reason
from cascade_api.settings import CPU, AcceleratorClass, PlannerSettings

from .planning.catalogue import Catalogue
from .planning.demand import Forecaster, fast_up_slow_down
from .planning.memory import Memory
from .planning.parking import asleep, note_arrivals
from .planning.pool_decisions import decide_pools
from .planning.situation import Situation, look
from .planning.statuses import Findings, signs, status_of, worth_writing
from .planning.updates import lost, moves_now, plan_now
from .snapshot import Action, Diagnostics, Publish, SetStatus, Snapshot, Start


@dataclass(frozen=True)
class Decision:
    """What to do now, why, what to remember, and when to decide next (Unix seconds)."""

    actions: tuple[Action, ...]
    diagnostics: tuple[Diagnostics, ...]
    memory: Memory
    next_at: float


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
    situations = [
        look(view, snapshot, memory, now, settings, classes, catalogue, forecaster) for view in snapshot.cascades
    ]
    for it in situations:
        note_arrivals(it, now)
    catalogue.keep_only({it.ref for it in situations})
    decide_pools(situations, snapshot, now, settings, classes, catalogue)
    free = free_accelerators(snapshot)
    actions: list[Action] = []
    for it in situations:
        actions += _act(it, snapshot, free, now, settings, catalogue)
    remembered = Memory({str(it.ref): it.memory for it in situations})
    tick = min((settings.tick_s(it.objective_s) for it in situations), default=settings.tick_max_s)
    return Decision(tuple(actions), tuple(_diagnose(it) for it in situations), remembered, now + tick)


def free_accelerators(snapshot: Snapshot) -> dict[str, int]:
    """Accelerators that no replica of any cascade sits on."""
    used = Counter(r.accelerator_class for view in snapshot.cascades for r in view.replicas)
    return {name: max(count - used[name], 0) for name, count in (snapshot.inventory or {}).items()}


def _act(
    it: Situation,
    snapshot: Snapshot,
    free: dict[str, int],
    now: float,
    settings: PlannerSettings,
    catalogue: Catalogue,
) -> list[Action]:
    """What one cascade needs done now, plans before replicas are drained; takes what it starts from ``free``."""
    actions: list[Action] = []
    if it.acts:
        if lost(it):
            it.memory = replace(it.memory, reason=Reason.REPLICAS_CHANGED)
        it.moves = moves_now(it, free, now, settings)
        plan = plan_now(it, now, settings)
        if plan is not None:
            it.published = plan
            it.memory = replace(it.memory, generation=plan.generation, published_at_s=now, store_was_away=False)
            actions.append(Publish(plan))
        for action in it.moves.actions:
            actions.append(action)
            if isinstance(action, Start) and action.replica_id is None:
                free[action.accelerator_class] = free.get(action.accelerator_class, 0) - 1
    plan, findings = it.published or it.view.plan, _findings(it, snapshot)
    seen = it.view.status, signs(it.view.cascade, plan=plan, replicas=it.view.replicas, findings=findings)
    if catalogue.reported.get(it.ref) == seen:
        return actions
    status = status_of(
        it.view.cascade,
        plan=plan,
        replicas=it.view.replicas,
        findings=findings,
        before=it.view.status,
        now=now,
    )
    if worth_writing(it.view.status, status):
        actions.append(SetStatus(it.ref, status))
    else:
        catalogue.reported[it.ref] = seen
    return actions


def _findings(it: Situation, snapshot: Snapshot) -> Findings:
    memory = it.memory
    return Findings(
        refused=it.refused and (it.view.complaint or it.refused),
        complaint=it.view.complaint,
        held=it.held,
        metrics_missing=it.view.demand is None,
        store_available=snapshot.store_available,
        routers=len(it.view.reports),
        verdict=memory.verdict,
        binding=memory.binding,
        moving=it.moves.moving,
        parked=asleep(it),
        target=memory.pools,
        cost_per_hour=f"{memory.cost_per_hour:.2f}",
    )


def _diagnose(it: Situation) -> Diagnostics:
    """Why, for logs: the reason of the plan sent, else what holds, else steady."""
    if it.refused is not None:
        return Diagnostics(it.ref, str(it.refused[0]), it.figures, (it.refused[1],))
    if it.held is not None:
        return Diagnostics(it.ref, str(it.held[0]), it.figures, (it.held[1],))
    reason = it.published.reason if it.published else Reason.STEADY
    return Diagnostics(it.ref, str(reason), it.figures, it.memory.binding)
