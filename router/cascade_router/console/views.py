"""Puts together what people see of one cascade, from its plan, the routers' reports and the queues' loads (pure)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cascade_api.console import CascadeView, QueueView, Sample, VariantView, Work, WorkerView
from cascade_api.plan import Plan, Pool
from cascade_api.reasons import Refusal, Route
from cascade_api.report import RouterReport, realised_shares

from ..past import Past
from ..queue import PoolLoad


@dataclass(frozen=True)
class Seen:
    """What is known of one cascade over all routers at one moment; ``in_use`` has credits by queue and worker."""

    demand: float
    reports: Sequence[RouterReport]
    in_use: Mapping[str, Mapping[str, int]]

    @property
    def violations(self) -> int:
        return sum(report.violations for report in self.reports)

    def latency_s(self, of: Callable[[RouterReport], float | None]) -> float | None:
        """A latency quantile over all routers: their mean, weighted by their answers of the last minute."""
        told = [(of(report), sum(report.recent_routes.values())) for report in self.reports]
        weights = sum(count for value, count in told if value is not None)
        return sum(value * count for value, count in told if value is not None) / weights if weights else None


def sample(plan: Plan, seen: Seen, load: Callable[[str], PoolLoad], *, at_ms: int, violations: int) -> Sample:
    """A cascade at one moment; ``violations`` are those since the last sample."""
    realised = realised_shares(seen.reports)
    planned = plan.planned_shares
    return Sample(
        at_ms=at_ms,
        demand=seen.demand,
        planned_demand=plan.expected.demand,
        latency_p50_s=seen.latency_s(lambda report: report.latency_p50_s),
        latency_p99_s=seen.latency_s(lambda report: report.latency_p99_s),
        heavy=realised["direct"] + realised["escalated"] if realised else None,
        planned_heavy=planned["direct"] + planned["escalated"],
        waiting=sum(load(queue).waiting for queue in queues_of(plan)),
        violations=violations,
        quality=plan.expected.quality,
        workers=len(plan.workers),
    )


def view(
    name: str,
    plan: Plan,
    seen: Seen,
    past: Past,
    load: Callable[[str], PoolLoad],
    *,
    ejected: Collection[str],
    since_ms: int,
) -> CascadeView:
    """All of one cascade that people see; ``ejected`` are the workers that this router does not trust."""
    routes, refusals = Counter[Route](), Counter[Refusal]()
    for report in seen.reports:
        routes.update(report.routes)
        refusals.update(report.refusals)
    assert past.in_force is not None  # noqa: S101 - a cascade begins with its plan
    return CascadeView(
        name=name,
        cascade=plan.cascade,
        routers=len(seen.reports),
        parked=plan.parked,
        objective_s=plan.objective_s,
        attainment=plan.attainment,
        overload=plan.overload,
        demand=seen.demand,
        expected=plan.expected,
        work=work(plan),
        rows=plan.rows,
        sizes=plan.sizes,
        variants=[
            VariantView(
                name=each,
                steps=variant.settings.steps,
                guidance=variant.settings.guidance,
                weights=variant.weights,
                share=plan.image_shares.get(each, 0.0),
            )
            for each, variant in plan.variants.items()
        ],
        planned_shares=plan.planned_shares,
        realised_shares=realised_shares(seen.reports),
        latency_p50_s=seen.latency_s(lambda report: report.latency_p50_s),
        latency_p99_s=seen.latency_s(lambda report: report.latency_p99_s),
        answered=routes.total(),
        degraded=routes[Route.DEGRADED],
        refusals=dict(refusals),
        violations=seen.violations,
        routes=dict(routes),
        confidence=_confidence(seen.reports),
        queues=[_queue(queue, pools, load(queue)) for queue, pools in queues_of(plan).items()],
        workers=_workers(plan, seen.in_use, ejected),
        decision=past.in_force,
        decisions=past.decisions(since_ms=since_ms),
        samples=past.samples(since_ms=since_ms),
    )


def queues_of(plan: Plan) -> dict[str, list[Pool]]:
    """The pools of a plan by the name of the queue that their requests wait in."""
    queues: dict[str, list[Pool]] = {}
    for pool in plan.pools:
        queues.setdefault(pool.queue, []).append(pool)
    return queues


def work(plan: Plan) -> Work:
    """Accelerator-seconds a second: demand · seconds per answer, and what they would be if all images were heavy."""
    demand, image_s = plan.expected.demand, plan.seconds_by_variant
    heavy = max((row.heavy for row in plan.rows), key=lambda name: image_s.get(name, 0.0))
    return Work(planned=demand * plan.answer_s, all_heavy=demand * image_s.get(heavy, 0.0))


def _queue(name: str, pools: Sequence[Pool], load: PoolLoad) -> QueueView:
    longest = max(pools, key=lambda pool: pool.image_s)
    return QueueView(
        name=name,
        variants=[pool.variant for pool in pools],
        accelerator_class=longest.accelerator_class,
        batch=longest.batch,
        image_s=longest.image_s,
        waiting=load.waiting,
        in_flight=load.in_flight,
        expected_wait_s=load.expected_wait_s if math.isfinite(load.expected_wait_s) else None,
    )


def _workers(plan: Plan, in_use: Mapping[str, Mapping[str, int]], ejected: Collection[str]) -> list[WorkerView]:
    used: dict[str, dict[str, int]] = {}
    for queue, pools in queues_of(plan).items():
        for worker, count in in_use.get(queue, {}).items():
            used.setdefault(worker, {})[pools[0].queued_with] = count
    return [
        WorkerView(
            id=worker.id,
            accelerator_class=worker.accelerator_class,
            state=worker.state,
            trusted=worker.id not in ejected,
            hosts=sorted(name for name, variant in plan.variants.items() if variant.weights in worker.hosts),
            credits=worker.credits,
            in_use=used.get(worker.id, {}),
        )
        for worker in plan.workers
    ]


def _confidence(reports: Sequence[RouterReport]) -> dict[str, float]:
    """The median of the light images' confidence by variant, as the first router with one says it."""
    found: dict[str, float] = {}
    for report in reports:
        for variant, quantiles in report.confidence.items():
            if quantiles:
                found.setdefault(variant, quantiles[len(quantiles) // 2])
    return found
