"""The status of a cascade: its conditions with their reasons, its pools and the plan in force.

A status is written only when it changes, so that the API server is not written to at every tick. Two rules keep it
stable: a change of shares alone is not worth writing (routers and commands read shares in Redis; the next real change
writes them along), and messages contain no figures that differ from tick to tick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Plan
from cascade_api.reasons import ConditionType, Reason
from cascade_api.status import CascadeStatus, Condition, PoolStatus, QualityStatus, merge_conditions

from ..snapshot import CascadeView, Worker, WorkerState
from .allocation import Placement, PoolKey, PoolSize
from .memory import FloorTarget
from .plans import needed, servable, timestamp

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Findings:
    """What a tick found out about a cascade.

    The first three are (reason, message), or None if they do not apply. ``refused``: the cascade cannot be planned.
    ``complaint``: its resources are invalid now, so it is planned by the last valid ones. ``held``: it is left as it
    is. ``target`` is how many workers should serve each variant, and ``workers`` how many that are; ``ready`` are those
    that serve now.
    """

    refused: tuple[Reason, str] | None = None
    complaint: tuple[Reason, str] | None = None
    held: tuple[Reason, str] | None = None
    metrics_missing: bool = False
    store_available: bool = True
    routers: int = 0
    verdict: Reason = Reason.OPTIMAL
    binding: tuple[str, ...] = ()
    moving: bool = False
    parked: bool = False
    target: Mapping[PoolKey, PoolSize] = field(default_factory=dict)
    workers: int = 0
    ready: Placement = field(default_factory=Placement)
    cost_per_hour: str = "0"
    floor: FloorTarget | None = None


def status_of(
    cascade: DiffusionCascade,
    *,
    plan: Plan | None,
    workers: Sequence[Worker],
    findings: Findings,
    before: CascadeStatus | None,
    now: float,
) -> CascadeStatus:
    """The status to report; conditions that did not change keep their transition times from ``before``."""
    generation = cascade.metadata.generation
    found = [
        _ready(plan, workers, findings),
        _accepted(findings),
        _pools_available(workers, findings),
        _router_available(findings),
        _metrics_available(findings),
        _allocation_optimal(findings),
        _progressing(findings),
        _paused(cascade),
    ]
    conditions = [
        Condition(type=kind, status=truth, reason=reason, message=message[:1024], observed_generation=generation)
        for kind, truth, reason, message in found
    ]
    ready = {key: size.replicas for key, size in findings.ready.pools.items()}
    keys = sorted({*findings.target, *ready})
    rows = plan.rows if plan else []
    direct = sum(r.share * r.direct for r in rows)
    heavy = sum(r.share * r.heavy_share for r in rows)
    return CascadeStatus(
        observed_generation=generation,
        conditions=merge_conditions(before.conditions if before else [], conditions, now=timestamp(now)),
        chain=list(rows[0].chain) if rows else [],
        direct_percent=round(100 * direct),
        escalated_percent=round(100 * (heavy - direct)),
        replicas=f"{findings.ready.workers:.0f}/{findings.workers}",
        pools=[
            PoolStatus(
                name=pool_name(variant=key[0], accelerator_class=key[1]),
                variant=key[0],
                accelerator_class=key[1],
                desired=findings.target[key].replicas if key in findings.target else 0,
                ready=ready.get(key, 0),
                batch=findings.target[key].batch if key in findings.target else 1,
            )
            for key in keys
        ],
        plan_generation=plan.generation if plan else 0,
        plan_reason=plan.reason if plan else Reason.INITIAL_PLAN,
        cost_per_hour=findings.cost_per_hour,
        quality=_quality(cascade, findings.floor),
    )


def _quality(cascade: DiffusionCascade, floor: FloorTarget | None) -> QualityStatus | None:
    wanted = cascade.spec.objective.quality
    if wanted is None or floor is None:
        return None
    cost = floor.all_heavy_cost_per_hour
    return QualityStatus(
        no_worse_than=wanted.no_worse_than,
        expected=f"{floor.expected:.4g}",
        held=floor.held,
        all_heavy_workers=floor.all_heavy_workers,
        all_heavy_cost_per_hour=None if cost is None else f"{cost:.2f}",
    )


def signs(
    cascade: DiffusionCascade, *, plan: Plan | None, workers: Sequence[Worker], findings: Findings
) -> tuple[object, ...]:
    """Everything that decides what a status worth writing says, except the status before: equal signs, equal status."""
    rows = plan.rows if plan else []
    chain = (rows[0].chain, needed(rows)) if rows else None
    states = Counter((worker.pool, worker.state) for worker in workers)
    failed = tuple(sorted((worker.id, worker.problem) for worker in workers if worker.state is WorkerState.FAILED))
    return cascade, chain, states, failed, findings


def worth_writing(before: CascadeStatus | None, after: CascadeStatus) -> bool:
    """Whether a status differs in more than its shares and the plan's number and reason, which Redis has as well."""
    if before is None:
        return True
    return any(getattr(before, name) != getattr(after, name) for name in _WORTH_WRITING)


_WORTH_WRITING = CascadeStatus.model_fields.keys() - {
    "direct_percent",
    "escalated_percent",
    "plan_generation",
    "plan_reason",
}
_Found = tuple[ConditionType, Truth, Reason, str]


def _ready(plan: Plan | None, workers: Sequence[Worker], findings: Findings) -> _Found:
    kind = ConditionType.READY
    ready = {name for name, _ in findings.ready.pools}
    if plan is not None and servable(plan.rows, ready):
        return kind, "True", Reason.AS_PLANNED, "every stage of the plan in force has a ready replica"
    if findings.refused is not None:
        return kind, "False", *findings.refused
    if findings.parked:
        return kind, "True", Reason.PARKED, "nobody asked for images: nothing runs until somebody does"
    if findings.held is not None and plan is None:
        return kind, "False", *findings.held
    if findings.verdict is Reason.NO_CAPACITY:
        return kind, "False", Reason.NO_CAPACITY, "; ".join(findings.binding) or "no accelerators"
    if workers and all(worker.state is WorkerState.FAILED for worker in workers):
        return kind, "False", Reason.REPLICAS_FAILING, "all replicas have failed and are being restarted"
    return kind, "False", Reason.REPLICAS_STARTING, "a stage of the plan has no ready replica yet"


def _accepted(findings: Findings) -> _Found:
    wrong = findings.complaint or findings.refused
    if wrong is not None:
        return ConditionType.ACCEPTED, "False", *wrong
    return ConditionType.ACCEPTED, "True", Reason.VALID, "spec and profile can be planned"


def _pools_available(workers: Sequence[Worker], findings: Findings) -> _Found:
    kind = ConditionType.POOLS_AVAILABLE
    ready = {key: size.replicas for key, size in findings.ready.pools.items()}
    short = [key for key, size in sorted(findings.target.items()) if ready.get(key, 0) < size.replicas]
    failed = sorted((worker.id, worker.problem) for worker in workers if worker.state is WorkerState.FAILED)
    if failed:
        names = ", ".join(f"{name} ({problem})" if problem else name for name, problem in failed)
        return kind, "False", Reason.REPLICAS_FAILING, f"failed: {names}"
    if short:
        names = ", ".join(pool_name(variant=v, accelerator_class=c) for v, c in short)
        return kind, "False", Reason.REPLICAS_STARTING, f"fewer replicas ready than wanted: {names}"
    return kind, "True", Reason.AS_PLANNED, "every pool has its replicas"


def _router_available(findings: Findings) -> _Found:
    kind = ConditionType.ROUTER_AVAILABLE
    if not findings.store_available:
        return kind, "Unknown", Reason.STORE_AWAY, "Redis cannot be reached; routers serve by their last plan"
    if findings.routers == 0:
        return kind, "False", Reason.ROUTER_AWAY, "no router has reported"
    return kind, "True", Reason.AS_PLANNED, "routers report"


def _metrics_available(findings: Findings) -> _Found:
    kind = ConditionType.METRICS_AVAILABLE
    if not findings.store_available:
        return kind, "False", Reason.STORE_AWAY, "Redis cannot be reached: the last plan is held"
    if findings.metrics_missing:
        return kind, "False", Reason.METRICS_MISSING, "the demand is not known: the plan is for the last known demand"
    return kind, "True", Reason.AS_PLANNED, "demand is known"


def _allocation_optimal(findings: Findings) -> _Found:
    kind = ConditionType.ALLOCATION_OPTIMAL
    because = "; ".join(findings.binding)
    if findings.refused is not None:
        return kind, "Unknown", *findings.refused
    if findings.held is not None:
        return kind, "Unknown", *findings.held
    floor = findings.floor
    if findings.verdict is Reason.OPTIMAL:
        best = "best quality at this demand" if floor is None else "the quality floor is held at the least cost"
        return kind, "True", Reason.OPTIMAL, because or best
    texts = {
        Reason.QUALITY_BELOW_FLOOR: _missed(floor),
        Reason.QUALITY_SHED: "the load leaves room for the cheapest images only",
        Reason.DEGRADING: "more answers than spec.objective.attainmentPercent leaves are degraded, to be in time",
        Reason.LOAD_SHED: "the load is above what can be served in time; a part is refused",
        Reason.NO_CAPACITY: "nothing can be served",
        Reason.SOLVER_LIMIT: "the search was cut short; the plan is usable",
    }
    text = texts.get(findings.verdict, str(findings.verdict))
    return kind, "False", findings.verdict, f"{text}: {because}" if because else text


def _missed(floor: FloorTarget | None) -> str:
    if floor is None:
        return "the quality floor is not held"
    by = abs(floor.expected - floor.no_worse_than)
    return (
        f"spec.objective.quality.noWorseThan of {floor.no_worse_than:g} is missed by {by:.2g}: "
        f"the best that fits is {floor.expected:.4g}"
    )


def _progressing(findings: Findings) -> _Found:
    kind = ConditionType.PROGRESSING
    if findings.moving:
        return kind, "True", Reason.MOVING, "replicas are being moved to the plan's pools"
    return kind, "False", Reason.AS_PLANNED, "pools are as planned"


def _paused(cascade: DiffusionCascade) -> _Found:
    kind = ConditionType.PAUSED
    mode = cascade.spec.policy.mode
    if mode == "paused":
        return kind, "True", Reason.PAUSED_BY_USER, "spec.policy.mode is paused: nothing is changed"
    if mode == "advisory":
        return kind, "True", Reason.ADVISORY, "spec.policy.mode is advisory: decisions are shown, not acted upon"
    return kind, "False", Reason.AS_PLANNED, "decisions are acted upon"


class StatusReports:
    """Makes statuses, and remembers the signs they were made from: with equal signs there is nothing to write."""

    def __init__(self) -> None:
        self._seen: dict[CascadeRef, object] = {}

    def new(
        self, view: CascadeView, *, workers: Sequence[Worker], plan: Plan | None, findings: Findings, now: float
    ) -> CascadeStatus | None:
        """The status of a cascade, or None if the one before already says everything that is worth writing."""
        ref = view.cascade.ref
        seen = view.status, signs(view.cascade, plan=plan, workers=workers, findings=findings)
        if self._seen.get(ref) == seen:
            return None
        status = status_of(view.cascade, plan=plan, workers=workers, findings=findings, before=view.status, now=now)
        if worth_writing(view.status, status):
            return status
        self._seen[ref] = seen
        return None

    def keep_only(self, refs: Collection[CascadeRef]) -> None:
        """Forget cascades that are gone."""
        self._seen = {ref: seen for ref, seen in self._seen.items() if ref in refs}
