"""How much slower each variant is than its profile says, by what its workers report about their batches.

With each image, a worker says how many images its batch held and how long the batch took. Routers report the median,
and the planner compares it with the time that it plans with:

    ratio = measured seconds of a batch / planned seconds of a batch of that size

both as of the default size of images: routers divide what they measured by the work of the images' size.

If the ratio is clearly above 1, the planner multiplies all times of this variant on this class by it. For example, a
profile was measured on an idle machine, and its heavy images of 2 s take 3 s on the cluster: the slowdown is 1.5, and
pools are planned for 3 s. When images take 2 s again, the slowdown ends.

Times that are shorter than the profile's are not used: a profile with longer times may be meant to leave room.
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
"""Measured and planned times count as different if one is more than this many times the other: medians fluctuate."""
KEPT_OBJECTIVES: Final = 30.0
"""A slowdown is kept for this many objectives after the last measurement."""
MOST: Final = 100.0
"""Largest slowdown that is planned with; beyond it no plan would help."""


def slowdowns(
    prepared: Prepared,
    *,
    judged: Collection[str],
    reports: Sequence[RouterReport],
    remembered: Sequence[Slowdown],
    now: float,
) -> tuple[Slowdown, ...]:
    """The slowdowns that the next decision plans with; pools that are not slower are left out.

    Args:
        prepared: the cascade; its times already contain the ``remembered`` slowdowns.
        judged: variants whose workers also run the discriminator on their images, by the plan in force.
        reports: the reports of all routers, whose ratios are averaged.
        remembered: the slowdowns that this decision planned with.
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
    """Measured seconds of a batch divided by planned seconds, averaged over routers; None without a measurement."""
    planned_s = {service.batch: service.p50_s for service in prepared.default_timings.services(*key, role)}
    if not planned_s:
        return None
    told = [report.batch_times.get(pool_name(variant=key[0], accelerator_class=key[1])) for report in reports]
    ratios = [batch.seconds / batch_seconds(planned_s, batch.images) for batch in told if batch is not None]
    return statistics.fmean(ratios) if ratios else None
