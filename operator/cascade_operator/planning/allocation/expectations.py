"""What a mixture on given pools will be like: its paths, their waits, and the latency that most requests stay below."""

from __future__ import annotations

from collections.abc import Mapping

from .hull import Hull
from .latency import BatchService, Path, WaitingTime, quantile, waiting
from .problem import PoolKey, PoolSize
from .shares import Sharing, running_columns
from .stages import Role, Stages

P99 = 0.99
LEAST_LEFT = 0.05
"""Part of the time that heavy work is taken to get at least."""


def paths(sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, demand: float) -> list[Path]:
    """Direct, accepted and escalated requests with their shares of what is served; empty when nothing is."""
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


def fluid_paths(hull: Hull, sharing: Sharing, *, workers: int, demand: float) -> list[Path]:
    """The paths of every row of a mixture on workers that host all variants, with light work first.

    A light image waits for other light work alone, so the steps of what it interrupts are taken for nothing; the rest
    gets what light work leaves of the time: all seconds of heavy work are longer by 1/(1 - ρ_light).
    """
    served = demand * (1 - sharing.shed)
    light_busy = served * hull.seconds(sharing.mixture, Role.LIGHT) / max(workers, 1)
    stretch = 1 / max(1 - light_busy, LEAST_LEFT)

    def wait(role: Role, factor: float) -> WaitingTime:
        load = served * (sharing.light_load if role is Role.LIGHT else sharing.heavy_load)
        mean_s = factor * served * hull.seconds(sharing.mixture, role) / load if load else 0.0
        return waiting(load=load, service=BatchService(1, mean_s, mean_s), replicas=workers)

    light_wait, heavy_wait = wait(Role.LIGHT, 1.0), wait(Role.HEAVY, stretch)
    found = []
    for portion in sharing.mixture:
        row = portion.row
        light_s = hull.services[row.light, Role.LIGHT].p95_s if row.light_load else 0.0
        heavy_s = stretch * hull.services[row.heavy, Role.HEAVY].p95_s if row.heavy_load else 0.0
        found += [
            Path(portion.share * row.direct, heavy_s, (heavy_wait,)),
            Path(portion.share * (1 - row.direct - row.escalated), light_s, (light_wait,)),
            Path(portion.share * row.escalated, light_s + heavy_s, (light_wait, heavy_wait)),
        ]
    return [path for path in found if path.share > 0]


def latency_p99_s(
    sharing: Sharing,
    pools: Mapping[PoolKey, PoolSize],
    *,
    demand: float,
    objective_s: float,
    hull: Hull | None = None,
) -> float:
    """Seconds within which 99 % are answered; at most twice the objective, beyond which the model says nothing.

    ``hull`` is that of a cascade whose workers host all variants.
    """
    if hull is None:
        ways = paths(sharing, pools, demand=demand)
    else:
        workers = sum(size.replicas for size in pools.values())
        ways = fluid_paths(hull, sharing, workers=workers, demand=demand)
    return quantile(ways, share=P99, ceiling_s=2 * objective_s)


def _stage(
    stages: Stages, role: Role, pools: Mapping[PoolKey, PoolSize], load: float
) -> tuple[BatchService | None, WaitingTime]:
    """Service and wait of a stage: its slowest pool, with the load split by capacity."""
    running = [(column.service, replicas) for column, replicas in running_columns(stages, role, pools)]
    total = sum(service.rate * replicas for service, replicas in running)
    if not total:
        return None, WaitingTime(0.0, 0.0)
    waits = [
        (service, waiting(load=load * service.rate * replicas / total, service=service, replicas=replicas))
        for service, replicas in running
    ]
    return max(waits, key=lambda pair: pair[0].p95_s + pair[1].mean_s)
