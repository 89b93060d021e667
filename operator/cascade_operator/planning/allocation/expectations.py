"""The latency to expect from a mixture of rows on given pools.

A request takes one of three paths: direct (heavy stage only), accepted (light stage only) or escalated (both). The time
of a path is the execution of its stages plus their waits, which `latency` models. The 99 % quantile is the time t with

    Σ over paths of share·P(execution + waits > t) = 1 %

With ``overload: degrade``, a request whose heavy image would be late gets a quicker variant's image in time, marked as
degraded. So it is not late, and the share of such requests is expected beside the quantile. A path counts as replaced
where a quicker variant runs: the light one of its chain, or any on workers that host several. Where load is shed, what
would be late is refused, so the answers are in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .hull import Hull, shared_paths
from .latency import BatchService, Path, Queue, late_share, quantile
from .problem import Placement, PoolKey, PoolSize
from .shares import Sharing, running_columns
from .stages import Role, ServiceLevel, Stages

P99 = 0.99
NOBODY = Queue(0.0, BatchService(1, 0.0, 0.0), 0)
"""The queue of a stage that nothing serves and nothing reaches."""


@dataclass(frozen=True)
class Answers:
    """How requests that are served will be answered.

    ``p99_s`` is the time within which 99 % of them are; at most twice the objective, where the model ends. ``degraded``
    is the share whose heavy image would be late, so that a quicker variant makes the image.
    """

    p99_s: float
    degraded: float


def answers(
    sharing: Sharing,
    placement: Placement,
    *,
    demand: float,
    level: ServiceLevel,
    hull: Hull | None = None,
    offer: float = 1.0,
) -> Answers:
    """How the requests of a sharing will be answered on a placement.

    ``hull`` is set for a cascade whose workers host all variants, and ``offer`` is the factor by which more images
    escalate than fit.
    """
    if hull is None:
        ways = paths(sharing, placement.pools, demand=demand, offer=offer)
    else:
        ways = shared_paths(hull, sharing.mixture, workers=placement.workers, demand=demand * (1 - sharing.shed))
    objective_s, ceiling_s = level.objective_s, 2 * level.objective_s
    p99_s = quantile(ways, share=P99, ceiling_s=ceiling_s)
    replaced = [path for path in ways if level.degrade and _has_stand_in(path, sharing, placement, hull)]
    degraded = sum(path.share * _late_at_the_end(path, objective_s) for path in replaced)
    if replaced and p99_s > objective_s:
        firm = [path for path in ways if path not in replaced]
        in_time = late_share(firm, seconds=objective_s) <= 1 - P99
        p99_s = objective_s if in_time else quantile(firm, share=P99, ceiling_s=ceiling_s)
    if sharing.shed:
        p99_s = min(p99_s, objective_s)
    return Answers(p99_s, degraded)


def _has_stand_in(path: Path, sharing: Sharing, placement: Placement, hull: Hull | None) -> bool:
    """Whether a quicker image can replace the heavy one of a path if that would be late."""
    if path.heavy is None:
        return False
    if len(path.waits) > 1:
        return True
    if hull is None:
        return sharing.stages is not None and bool(running_columns(sharing.stages, Role.LIGHT, placement.pools))
    return any(hull.image_s(name) < hull.image_s(path.heavy) for name, _ in placement.pools)


def _late_at_the_end(path: Path, objective_s: float) -> float:
    """The part of a path's requests whose heavy images would be late, if these are not made."""
    before_s = sum(wait.mean_s for wait in path.waits[:-1])
    return path.queue.left_after(objective_s - path.execution_s - before_s) if path.queue else 0.0


def paths(sharing: Sharing, pools: Mapping[PoolKey, PoolSize], *, demand: float, offer: float = 1.0) -> list[Path]:
    """The direct, accepted and escalated paths, with their shares of the served requests; empty if none is served."""
    if sharing.stages is None:
        return []
    direct = sum(p.share * p.row.direct for p in sharing.mixture)
    escalated = min(offer * sum(p.share * p.row.escalated for p in sharing.mixture), 1 - direct)
    served = demand * (1 - sharing.shed)
    light = _stage(sharing.stages, Role.LIGHT, pools, demand * sharing.light_load)
    heavy = _stage(sharing.stages, Role.HEAVY, pools, served * (direct + escalated))
    light_s, heavy_s = light.service.p95_s, heavy.service.p95_s
    end = sharing.stages.chain.heavy
    found = [
        Path(direct, heavy_s, (heavy.wait,), end, heavy),
        Path(1 - direct - escalated, light_s, (light.wait,)),
        Path(escalated, light_s + heavy_s, (light.wait, heavy.wait), end, heavy),
    ]
    return [path for path in found if path.share > 0]


def _stage(stages: Stages, role: Role, pools: Mapping[PoolKey, PoolSize], load: float) -> Queue:
    """The queue of the stage's slowest pool; each pool gets its part of the load in proportion to capacity."""
    running = [(column.service, replicas) for column, replicas in running_columns(stages, role, pools)]
    total = sum(service.rate * replicas for service, replicas in running)
    if not total:
        return NOBODY
    queues = [Queue(load * service.rate * replicas / total, service, replicas) for service, replicas in running]
    return max(queues, key=lambda queue: queue.service.p95_s + queue.wait.mean_s)
