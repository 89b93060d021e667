"""The latency to expect from a mixture of rows on given pools.

A request takes one of three paths: direct (heavy stage only), accepted (light stage only) or escalated (both). The time
of a path is the execution of its stages plus their waits, which `latency` models. The 99 % quantile is the time t with

    Σ over paths of share·P(execution + waits > t) = 1 %
"""

from __future__ import annotations

from collections.abc import Mapping

from .hull import Hull, shared_paths
from .latency import BatchService, Path, WaitingTime, quantile, waiting
from .problem import Placement, PoolKey, PoolSize
from .shares import Sharing, running_columns
from .stages import Role, Stages

P99 = 0.99


def paths(sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, demand: float) -> list[Path]:
    """The direct, accepted and escalated paths, with their shares of the served requests; empty if none is served."""
    if sharing.stages is None:
        return []
    light, light_wait = _stage(sharing.stages, Role.LIGHT, pools, demand * sharing.light_load)
    heavy, heavy_wait = _stage(sharing.stages, Role.HEAVY, pools, demand * sharing.heavy_load)
    light_s = light.p95_s if light else 0.0
    heavy_s = heavy.p95_s if heavy else 0.0
    direct = sum(p.share * p.row.direct for p in sharing.mixture)
    escalated = sum(p.share * p.row.escalated for p in sharing.mixture)
    found = [
        Path(direct, heavy_s, (heavy_wait,)),
        Path(1 - direct - escalated, light_s, (light_wait,)),
        Path(escalated, light_s + heavy_s, (light_wait, heavy_wait)),
    ]
    return [path for path in found if path.share > 0]


def latency_p99_s(
    sharing: Sharing,
    placement: Placement,
    *,
    demand: float,
    objective_s: float,
    hull: Hull | None = None,
) -> float:
    """Seconds within which 99 % of the requests are answered; at most twice the objective, where the model ends.

    ``hull`` is set for a cascade whose workers host all variants.
    """
    if hull is None:
        ways = paths(sharing, placement.pools, demand=demand)
    else:
        ways = shared_paths(hull, sharing.mixture, workers=placement.workers, demand=demand * (1 - sharing.shed))
    return quantile(ways, share=P99, ceiling_s=2 * objective_s)


def _stage(
    stages: Stages, role: Role, pools: Mapping[PoolKey, PoolSize], load: float
) -> tuple[BatchService | None, WaitingTime]:
    """Service and wait of the stage's slowest pool; each pool gets its part of the load in proportion to capacity."""
    running = [(column.service, replicas) for column, replicas in running_columns(stages, role, pools)]
    total = sum(service.rate * replicas for service, replicas in running)
    if not total:
        return None, WaitingTime(0.0, 0.0)
    waits = [
        (service, waiting(load=load * service.rate * replicas / total, service=service, replicas=replicas))
        for service, replicas in running
    ]
    return max(waits, key=lambda pair: pair[0].p95_s + pair[1].mean_s)
