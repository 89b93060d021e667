"""How much slower than its profile each variant is, by what its workers say of their batches.

A worker says with each image how many were made together, and how long that took. Routers report the median by

    ratio = seconds of a batch / seconds that are planned for a batch of that size

and where it is clearly more than 1 the planner multiplies all times of the variant on that class by it. For example, a
profile was made on an idle machine, and its heavy images of 2 s take 3 s on the cluster: the slowdown is 1.5, and pools
are planned for 3 s. Once they take 2 s again, it ends.

Times shorter than the profile's are not taken over: whoever writes longer ones into a profile wants room.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from typing import Final

from cascade_api.batches import batch_seconds
from cascade_api.names import pool_name
from cascade_api.report import RouterReport

from .allocation import PoolKey, Role
from .memory import Slowdown
from .prepared import Prepared

TELLING_RATIO: Final = 1.25
"""What is measured differs from what is planned with where it is more, or less, by this factor: medians waver."""
KEPT_OBJECTIVES: Final = 30.0
"""Objectives for which a slowdown holds while nothing is measured."""
MOST: Final = 100.0
"""Slowdowns beyond this are not told apart: no plan would help."""


def slowdowns(
    prepared: Prepared,
    *,
    judged: Collection[str],
    reports: Sequence[RouterReport],
    remembered: Sequence[Slowdown],
    now: float,
) -> tuple[Slowdown, ...]:
    """What to plan with from the next decision on.

    Args:
        prepared: the cascade, with the ``remembered`` slowdowns in its times.
        judged: variants whose workers judge their images, too, by the plan in force.
        reports: of all routers, whose ratios are averaged.
        now: Unix seconds.
    """
    before = {slowdown.pool: slowdown for slowdown in remembered}
    kept_s = KEPT_OBJECTIVES * prepared.spec.objective.latency_s
    found = []
    for key in sorted(prepared.keys):
        last = before.get(key, Slowdown(*key, factor=1.0, seen_at_s=now))
        ratio = _ratio(prepared, key, Role.LIGHT if key[0] in judged else Role.HEAVY, reports)
        if ratio is not None:
            steady = 1 / TELLING_RATIO <= ratio <= TELLING_RATIO
            found.append(Slowdown(*key, factor=last.factor if steady else _factor(last.factor * ratio), seen_at_s=now))
        elif now - last.seen_at_s <= kept_s:
            found.append(last)
    return tuple(slowdown for slowdown in found if slowdown.factor > 1)


def _factor(measured: float) -> float:
    return round(min(measured, MOST), 2) if measured > TELLING_RATIO else 1.0


def _ratio(prepared: Prepared, key: PoolKey, role: Role, reports: Sequence[RouterReport]) -> float | None:
    """What was measured, by what is planned with; None where nothing was."""
    planned_s = {service.batch: service.p50_s for service in prepared.timings.services(*key, role)}
    if not planned_s:
        return None
    told = [report.batch_times.get(pool_name(variant=key[0], accelerator_class=key[1])) for report in reports]
    ratios = [batch.seconds / batch_seconds(planned_s, batch.images) for batch in told if batch is not None]
    return statistics.fmean(ratios) if ratios else None
