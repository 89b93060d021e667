"""How much slower than its profile each variant is, by the service times that routers measure.

A service time lasts from the moment at which a worker gets a request until its image is back. A busy worker has
``credits`` requests in hand and makes ``batch`` of them at a time, so that by the profile it takes

    promised_s = seconds of a batch × credits / batch

and less where the worker is not busy. Where requests take longer, the pool is slower than its profile says, and by

    slowdown = median measured / promised_s

the planner multiplies all times of the variant on that class. For example, a profile was made on an idle machine, and
its heavy images of 2 s take 3 s on the cluster: the slowdown is 1.5, and pools are planned for 3 s.

A worker that answers sooner than promised may just not be busy. So a slowdown ends only where it was not seen again
for some time; then what is measured counts anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from cascade_api.names import pool_name
from cascade_api.report import RouterReport

from .allocation import PoolKey, Role
from .memory import Slowdown
from .prepared import Prepared, credits_for

TELLING_RATIO: Final = 1.25
"""What is measured differs from what is planned with where it is more, or less, by this factor: medians waver."""
KEPT_OBJECTIVES: Final = 30.0
"""Objectives for which a slowdown holds after it was last seen."""
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
        reports: of all routers, whose medians are averaged.
        now: Unix seconds.
    """
    before = {slowdown.pool: slowdown for slowdown in remembered}
    kept_s = KEPT_OBJECTIVES * prepared.spec.objective.latency_s
    found = []
    for key in sorted(prepared.keys):
        last = before.get(key, Slowdown(*key, factor=1.0, seen_at_s=0.0))
        ratio = _ratio(prepared, key, Role.LIGHT if key[0] in judged else Role.HEAVY, reports)
        found.append(_next(last, ratio, kept_s=kept_s, now=now))
    return tuple(slowdown for slowdown in found if slowdown.factor > 1)


def _next(last: Slowdown, ratio: float | None, *, kept_s: float, now: float) -> Slowdown:
    """The slowdown of one pool; ``ratio`` is what was measured by what was planned with, None where nothing was."""
    over = last.seen_at_s + kept_s < now
    if ratio is None:
        factor, seen = (1.0 if over else last.factor), False
    elif ratio > TELLING_RATIO or (over and ratio * TELLING_RATIO < 1):
        factor, seen = min(round(last.factor * ratio, 2), MOST), True
    else:
        factor, seen = last.factor, ratio * TELLING_RATIO >= 1
    factor = factor if factor > TELLING_RATIO else 1.0
    return Slowdown(last.variant, last.accelerator_class, factor, now if seen else last.seen_at_s)


def _ratio(prepared: Prepared, key: PoolKey, role: Role, reports: Sequence[RouterReport]) -> float | None:
    name = pool_name(variant=key[0], accelerator_class=key[1])
    planned_s = {service.batch: service.p50_s for service in prepared.timings.services(*key, role)}
    execution_s: Mapping[int, float] = prepared.timings.execution_s(*key)
    ratios = [
        seen.p50_s * seen.batch / planned_s[seen.batch] / credits_for(seen.batch, execution_s)
        for report in reports
        if (seen := report.service_times.get(name)) is not None and seen.batch in planned_s
    ]
    return statistics.fmean(ratios) if ratios else None
