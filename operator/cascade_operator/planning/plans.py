"""The plan document: it turns a mixture of rows, and the replicas that exist, into what routers follow.

A plan has two kinds of fields. Its structure (variants, workers, objective, …) changes with replicas or spec. Its rows
(which share of the prompts takes which chain, with which direct and escalation shares) change with the load. `publish`
compares both with the plan in force to find out whether routers must be told. A worker gets as many credits for its
variant as its batch has places, or twice as many if a batch takes less than `SHORT_EXECUTION_S`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from cascade_api.batches import batch_seconds
from cascade_api.chains import Variants
from cascade_api.plan import (
    PATIENCE,
    Expected,
    Plan,
    PlanCrowd,
    PlanRow,
    PlanSettings,
    PlanTimes,
    PlanVariant,
    PlanWorker,
    ScorerChoice,
    SeedThresholds,
)
from cascade_api.quantiles import interpolated
from cascade_api.reasons import Reason
from cascade_api.report import QUANTILES, RouterReport

from ..snapshot import HostState, Worker, WorkerState
from .allocation import Mixture, PoolKey, PoolSize, Role, Row, tier_rows
from .memory import Leaving
from .prepared import Prepared

SHORT_EXECUTION_S = 0.02
"""A batch shorter than this ends before the next grant arrives, so the worker gets credits for a second batch."""
_SERVING = (WorkerState.READY, WorkerState.DRAINING)
SHARED_PATIENCE = 0.8
"""Part of its slack that a request waits for a heavy image of workers that host all variants: a quick one can be made
until the end there. Chosen on generated waves and bursts: 0.5 is 0.05 to 0.1 FID worse, 0.95 as good."""
CROWD_SEEN_OBJECTIVES = 1 / 6
"""Objectives until a crowd is seen and weights begin to load: two ticks."""
SHARE_STEP = 0.02
"""Smallest change of a stage's share of the prompts that is worth a new plan."""


def timestamp(now: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def rows_of(
    mixture: Mixture, prepared: Prepared, reports: Sequence[RouterReport], *, offer: float = 1.0
) -> list[PlanRow]:
    """The plan's rows for a mixture; the largest row takes the rounding error, so that the shares add up to 1.

    The escalation shares are multiplied by ``offer`` (`PlanningPolicy.offer`).
    """
    ordered = sorted(mixture, key=lambda p: -p.share)
    shares = [round(p.share, 4) for p in ordered]
    shares[0] = 1.0 - sum(shares[1:])
    return [
        _row(share, portion.row, prepared, reports, offer)
        for share, portion in zip(shares, ordered, strict=True)
        if share > 0
    ]


def _row(share: float, row: Row, prepared: Prepared, reports: Sequence[RouterReport], offer: float) -> PlanRow:
    direct, escalation = prepared.policy.told(row)
    escalation = min(round(escalation * offer, 4), 1.0)
    return PlanRow(
        share=share,
        chain=row.chain,
        direct=direct,
        escalation=escalation,
        seed_thresholds=seed_thresholds(prepared, reports, row.light, direct, escalation),
    )


def tiers_of(prepared: Prepared, rows: Sequence[PlanRow], served: Collection[str]) -> dict[str, PlanRow]:
    """The rows of requests with a tier (`tier_rows`), of the rows whose variants are ``served``.

    Dedicated workers host the variants of the chains that are planned; these are the chains of ``rows``.
    """
    problem = prepared.problem
    if problem.hull is not None:
        found = list(problem.hull.rows)
        seconds = {name: problem.hull.image_s(name) for name in problem.hull.weights}
    else:
        stages = [each for each in problem.stages if each.chain.chain in chains(rows)]
        found = [row for each in stages for row in each.chain.rows]
        seconds = {each.chain.light: each.image_s(Role.LIGHT) for each in stages}
        seconds |= {each.chain.heavy: each.image_s(Role.HEAVY) for each in stages}
    here = [row for row in found if set(row.chain) <= set(served)]
    return {
        tier: PlanRow(share=1.0, chain=row.chain, direct=row.direct, escalation=row.escalation)
        for tier, row in tier_rows(here, seconds.__getitem__).items()
    }


def seed_thresholds(
    prepared: Prepared, reports: Sequence[RouterReport], light: str, direct: float, escalation: float
) -> SeedThresholds | None:
    """Thresholds for routers that have seen no scores yet.

    They are quantiles of the live scores that all routers report, or of the profile's scores if no router has any; None
    if the profile has none either.
    """
    scores = prepared.profile.scores
    hardness = _merged([r.hardness for r in reports]) or [v / 1000 for v in scores.hardness_milli]
    confidence = _merged([r.confidence.get(light, []) for r in reports]) or [
        v / 1000 for v in scores.confidence_milli.get(light, [])
    ]
    if not hardness or not confidence:
        return None
    return SeedThresholds(hardness=interpolated(hardness, 1 - direct), confidence=interpolated(confidence, escalation))


def variants_of(
    prepared: Prepared,
    *,
    last: Plan | None,
    workers: Sequence[Worker],
    target: Mapping[PoolKey, PoolSize],
    batches: Mapping[PoolKey, int],
) -> dict[str, PlanVariant]:
    """All variants of the cascade, with their times on each class where a worker serves them, or the target is.

    Without a target, as for a parked cascade, it is each class that they may run on: routers show by the pools that
    they know that they are alive.

    A variant that the cascade no longer has is described as in the ``last`` plan while a worker hosts its weights.
    """
    hosted = {
        (digest, w.accelerator_class) for w in workers if w.state in _SERVING for digest in w.hosting(HostState.READY)
    }
    before = {name: part.weights for name, part in (last.variants if last else {}).items()}
    weights = {**before, **prepared.weights}
    serving = ((name, on) for name, digest in weights.items() for own, on in hosted if own == digest)
    keys = sorted({*(target or prepared.keys), *serving})
    classes: dict[str, dict[str, PlanTimes]] = {}
    for key in keys:
        variant, accelerator_class = key
        execution_s = prepared.seconds(variant, accelerator_class)
        if execution_s:
            times = PlanTimes(
                queue=prepared.hull.queue_of(variant) if prepared.hull is not None else None,
                crowd=_crowd(prepared, variant, workers),
                batch=batches.get(key, 1),
                execution_s=execution_s,
            )
            classes.setdefault(variant, {})[accelerator_class] = times
    told = {name: part for name, part in (last.variants if last else {}).items() if name in classes}
    told |= {
        v.name: PlanVariant(
            weights=v.weights.digest,
            settings=PlanSettings(
                steps=v.settings.steps,
                guidance=v.settings.guidance,
                guidance_interval=v.settings.interval,
                step_cache=v.settings.cache,
            ),
            adapters={adapter.name: adapter.digest for adapter in v.adapters or ()},
            edits=bool(v.edits),
            classes={},
        )
        for v in prepared.spec.variants
    }
    return {name: part.model_copy(update={"classes": classes.get(name, {})}) for name, part in sorted(told.items())}


def _crowd(prepared: Prepared, variant: str, workers: Sequence[Worker]) -> PlanCrowd | None:
    """How many workers of a WorkerPool would make images of a cascade's quickest variant, for a crowd."""
    (pool, *others) = prepared.spec.workers
    if pool.pool is None or others or prepared.hull is None:
        return None
    most = min(sum(1 for worker in workers if worker.state is WorkerState.READY), pool.max)
    if most < 1 or variant != min(prepared.hull.batches, key=prepared.hull.image_s):
        return None
    after_s = CROWD_SEEN_OBJECTIVES * prepared.spec.objective.latency_s + prepared.load_s
    return PlanCrowd(workers=most, after_s=round(after_s, 3))


def workers_of(
    workers: Sequence[Worker], variants: Mapping[str, PlanVariant], leaving: Collection[Leaving]
) -> list[PlanWorker]:
    """The workers that serve or drain, sorted by name; each serves every variant of the weights that are ready there.

    It gets no credits for weights that it is ``leaving``. A variant whose requests wait in the queue of another one is
    not served as long as the weights of that one are not ready.
    """
    gone = {(each.worker, each.weights) for each in leaving}
    told = []
    for worker in sorted(workers, key=lambda each: each.id):
        ready = worker.hosting(HostState.READY)
        times = {name: v.classes.get(worker.accelerator_class) for name, v in variants.items() if v.weights in ready}
        credits = {
            name: 0 if (worker.id, variants[name].weights) in gone else _credits(found)
            for name, found in times.items()
            if found is not None
        }
        queues = {name: found.queue for name, found in times.items() if found is not None}
        credits = {name: count for name, count in credits.items() if (queues[name] or name) in credits}
        if worker.state not in _SERVING or not credits:
            continue
        told.append(
            PlanWorker(
                id=worker.id,
                endpoint=worker.endpoint,
                accelerator_class=worker.accelerator_class,
                state="ready" if worker.state is WorkerState.READY else "draining",
                hosts=list(dict.fromkeys(variants[name].weights for name in credits)),
                credits=credits,
            )
        )
    return told


def _credits(times: PlanTimes) -> int:
    shortest = min(batch_seconds(measured, times.batch) for measured in times.execution_s.values())
    return times.batch * (2 if shortest < SHORT_EXECUTION_S else 1)


def structure(
    prepared: Prepared,
    *,
    cascade: str,
    parked: bool,
    variants: Mapping[str, PlanVariant],
    workers: Sequence[PlanWorker],
    tiers: Mapping[str, PlanRow],
) -> dict[str, Any]:
    """The fields of a plan that do not follow the load: all except rows, expectations, reason and number."""
    spec = prepared.spec
    return {
        "cascade": cascade,
        "objective_s": spec.objective.latency_s,
        "attainment": spec.objective.attainment_percent / 100,
        "overload": spec.policy.overload,
        "dispatch": prepared.policy.dispatch,
        "parked": parked,
        "scorer": ScorerChoice(name=spec.hardness.scorer, source=spec.hardness.source),
        "sizes": spec.sizes,
        "variants": variants,
        "tiers": tiers,
        "workers": workers,
    }


def build(
    prepared: Prepared,
    structure: Mapping[str, Any],
    *,
    generation: int,
    now: float,
    reason: Reason,
    rows: list[PlanRow],
    expected: Expected,
) -> Plan:
    """The plan document."""
    return Plan(
        **structure,
        generation=generation,
        issued_at=timestamp(now),
        reason=reason,
        discriminator=prepared.spec.discriminator_of(rows[0].light),
        stand_in=stand_in(prepared, structure["workers"]),
        patience=PATIENCE if prepared.hull is None else SHARED_PATIENCE,
        rows=rows,
        expected=expected,
    )


def stand_in(prepared: Prepared, workers: Sequence[PlanWorker]) -> str | None:
    """The quickest variant on workers that host several: it makes images when those of a row would be too late."""
    if prepared.hull is None:
        return None
    served = {name for worker in workers if worker.state == "ready" for name, count in worker.credits.items() if count}
    return min(served & prepared.hull.batches.keys(), key=prepared.hull.image_s, default=None)


def work_of(prepared: Prepared, rows: Sequence[PlanRow], batches: Mapping[PoolKey, int], *, demand: float) -> float:
    """Accelerator-seconds a second that rows take at a demand: Σ calls of a variant · its seconds per image of the mix.

    Each variant counts on its quickest class, without the discriminator.
    """
    total = 0.0
    for row in rows:
        for name, calls in ((row.light, 1 - row.direct), (row.heavy, row.heavy_share)):
            keys = [key for key in prepared.keys if key[0] == name and prepared.timings.execution_s(*key)]
            seconds = [
                batch_seconds(prepared.timings.execution_s(*key), batches.get(key, 1)) / batches.get(key, 1)
                for key in keys
            ]
            total += row.share * calls * min(seconds, default=0.0)
    return demand * total


def has_structure(plan: Plan, structure: Mapping[str, Any], rows: Sequence[PlanRow]) -> bool:
    """Whether a plan has this ``structure`` and the chains of these ``rows``, so that only shares can differ."""
    return chains(plan.rows) == chains(rows) and all(getattr(plan, name) == value for name, value in structure.items())


def shares_moved(old: Sequence[PlanRow], new: Sequence[PlanRow]) -> bool:
    """Whether a share of the prompts, of a stage or of a chain, changed by at least `SHARE_STEP`."""
    before, after = _loads(old), _loads(new)
    return any(abs(before[way] - after[way]) >= SHARE_STEP for way in {**before, **after})


def chains(rows: Sequence[PlanRow]) -> set[Variants]:
    """The chains of rows."""
    return {row.chain for row in rows}


def needed(rows: Sequence[PlanRow]) -> set[str]:
    """Variants that the rows send requests to."""
    return {r.light for r in rows if r.direct < 1} | {r.heavy for r in rows if r.heavy_share > 0}


def servable(rows: Sequence[PlanRow], ready: Collection[str]) -> bool:
    """Whether every variant that the rows need is among the ``ready`` ones."""
    return needed(rows) <= set(ready)


def _loads(rows: Sequence[PlanRow]) -> defaultdict[tuple[str, Variants], float]:
    """Shares of the prompts by chain: of all, of those that go direct, and of those that its heavy variant serves."""
    loads: defaultdict[tuple[str, Variants], float] = defaultdict(float)
    for row in rows:
        loads["all", row.chain] += row.share
        loads["direct", row.chain] += row.share * row.direct
        loads["heavy", row.chain] += row.share * row.heavy_share
    return loads


def _merged(sketches: Sequence[Sequence[float]]) -> list[float]:
    """The mean of the routers' quantiles, unweighted since all routers see the same mix of prompts."""
    full = [s for s in sketches if len(s) == QUANTILES]
    return [sum(points) / len(full) for points in zip(*full, strict=True)] if full else []
