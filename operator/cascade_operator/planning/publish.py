"""The last stage of a decision: the best shares on the replicas that are ready, and the plan with these shares.

At every tick the mixture of rows is chosen anew for the replicas that are ready. A plan is published only if it says
something new: other replicas, another chain, or shares that differ by at least `plans.SHARE_STEP`. If a pool must be
vacated for a move, the mixture does without it, unless much less of the load could then be served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cascade_api.plan import Expected, Plan, PlanFloor, PlanRow, next_generation
from cascade_api.reasons import Reason
from cascade_api.settings import PlannerSettings

from ..snapshot import DrainWorker, WorkerState
from . import plans
from .allocation import HostSet, Placement, Sharing, answers, holds_floor
from .division import Divisions
from .forecast import Forecast
from .memory import Target
from .moves import BEARABLE_SHED_SHARE, Moves
from .observed import Observed, ready_hosts
from .targets import TargetDecision


@dataclass(frozen=True)
class Publication:
    """The plan for the routers; ``plan`` is None if the one in force says the same.

    ``parked`` means that nothing serves since nobody asked. The figures belong to the shares that were chosen now:
    ``latency_p99_s`` in seconds, ``value`` as normalised quality, ``shed`` as a share of the demand, ``degraded`` as a
    share of the answers.
    """

    plan: Plan | None
    parked: bool
    latency_p99_s: float
    value: float
    shed: float
    degraded: float


def publication(
    seen: Observed,
    expected: Forecast,
    decided: TargetDecision,
    moves: Moves,
    division: Divisions,
    now: float,
    settings: PlannerSettings,
) -> Publication | None:
    """The plan for the replicas that are ready, while ``moves`` are made; None if there are no rows to publish yet.

    The plan of a parked cascade says that it is parked until a replica is ready; until then routers keep its requests
    in the queue.
    """
    draining = {action.worker for action in moves.actions if isinstance(action, DrainWorker)}
    workers = [replace(w, state=WorkerState.DRAINING) if w.id in draining else w for w in seen.workers]
    batch_of = seen.batches(decided.sizes)
    hosts = ready_hosts(workers, moves.leaving)
    placement = division.placement(seen, hosts, decided.target or Target())
    sharing = _sharing(seen, expected, decided, moves, division, hosts)
    offer = 1.0
    if sharing.mixture and seen.degrades:
        problem = seen.known.at(expected.rate)
        offer = seen.known.policy.offer(problem, sharing, placement.pools, most=settings.escalation_offer)
    rows = _rows(seen, moves, sharing, placement, offer=offer)
    if not rows:
        return None
    parked = seen.idle or (decided.parked and not sharing.mixture)
    answered = answers(
        sharing, placement, demand=expected.rate, level=seen.known.problem.level, hull=seen.known.hull, offer=offer
    )
    last, reason = seen.view.plan, decided.reason
    variants = plans.variants_of(seen.known, last=last, workers=workers, target=decided.sizes, batches=batch_of)
    told = plans.workers_of(workers, variants, moves.leaving)
    served = {name for worker in told for name, count in worker.credits.items() if count}
    tiers = plans.tiers_of(seen.known, rows, served)
    structure = plans.structure(
        seen.known, cascade=str(seen.ref), parked=parked, variants=variants, workers=told, tiers=tiers
    )
    said = Publication(None, parked, answered.p99_s, sharing.value, sharing.shed, answered.degraded)
    if last is not None and not seen.store_was_away and plans.has_structure(last, structure, rows):
        if rows == last.rows:
            return said
        reason = decided.news or Reason.SHARES_ADJUSTED
    plan = plans.build(
        seen.known,
        structure,
        generation=next_generation(now_s=now, last=seen.memory.generation),
        now=now,
        reason=reason,
        rows=rows,
        expected=Expected(
            demand=round(expected.rate, 3),
            work=round(plans.work_of(seen.known, rows, batch_of, demand=expected.rate), 4),
            latency_p99=round(answered.p99_s, 4),
            degraded=round(answered.degraded, 4),
            quality=round(seen.known.problem.frontier.metric(sharing.value), 4),
            floor=_floor(seen, sharing),
            cost_per_hour=f"{decided.target.cost_per_hour if decided.target else 0.0:.2f}",
        ),
    )
    return replace(said, plan=plan)


def _floor(seen: Observed, sharing: Sharing) -> PlanFloor | None:
    """The quality floor, and whether these shares hold it."""
    wanted = seen.known.spec.objective.quality
    if wanted is None:
        return None
    held = not sharing.shed and holds_floor(seen.known.problem, sharing.value)
    return PlanFloor(no_worse_than=float(wanted.no_worse_than), held=held)


def _sharing(
    seen: Observed,
    expected: Forecast,
    decided: TargetDecision,
    moves: Moves,
    division: Divisions,
    hosts: Mapping[HostSet, int],
) -> Sharing:
    """The best shares on ready workers; weights to vacate are left out unless much less could be served without."""
    target = decided.target or Target()
    waiting = seen.backlog(seen.batches(target.sizes))
    sharing = seen.known.share(division.placement(seen, hosts, target), demand=expected.rate, backlog=waiting)
    if moves.vacate is not None and moves.vacate[0] in seen.known.variants_with:
        kept = division.placement(seen, _without(hosts, moves.vacate), target)
        without = seen.known.share(kept, demand=expected.rate, backlog=waiting)
        full = division.allocated(seen, target.workers, target.sizes)
        wanted = seen.known.share(full, demand=expected.rate, backlog=waiting)
        # A move that ends the shedding of load may shed a little more while it lasts.
        if without.mixture and (without.shed <= sharing.shed + BEARABLE_SHED_SHARE or wanted.shed < sharing.shed):
            return without
    return sharing


def _without(hosts: Mapping[HostSet, int], vacated: tuple[str, str]) -> dict[HostSet, int]:
    """The workers as if none hosted these weights."""
    kept: dict[HostSet, int] = {}
    for each, count in hosts.items():
        gone = {vacated[0]} if each.accelerator_class == vacated[1] else set()
        left = HostSet.of(set(each.weights) - gone, each.accelerator_class)
        if left.weights:
            kept[left] = kept.get(left, 0) + count
    return kept


def _rows(seen: Observed, moves: Moves, sharing: Sharing, placement: Placement, *, offer: float) -> list[PlanRow]:
    """Rows to publish: those in force if the new ones hardly differ or if nothing can be served, else the new ones.

    Of the images that fit, ``offer`` times as many escalate.
    """
    names = {variant.name for variant in seen.known.spec.variants}
    last = seen.rows if plans.servable(seen.rows, names) else []
    if not sharing.mixture:
        return last
    rows = plans.rows_of(sharing.mixture, seen.known, seen.view.reports, offer=offer)
    if not last or plans.chains(last) != plans.chains(rows):
        return rows
    vacated = set(seen.known.variants_with.get(moves.vacate[0], ())) if moves.vacate is not None else set()
    leaves = bool(vacated & (plans.needed(last) - plans.needed(rows)))
    served = {name for name, _ in placement.pools}
    problem = seen.known.problem
    if problem.floor is not None and holds_floor(problem, sharing.value):
        # Shares that hold a floor hardly depend on the load, and those in force may be for a load that was too high.
        return rows
    if leaves or not plans.servable(last, served) or plans.shares_moved(last, rows):
        return rows
    return last
