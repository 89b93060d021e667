"""What an image takes where clients ask for several sizes: the mean over the sizes that come, and the largest's tail.

Routers count requests by size (`RouterReport.arrived`). The planner turns the counts of all routers into the share of
each size, the *mix*, and plans with one time for a batch of a variant:

    p50 = Σ share(size)·p50(size)    and    p95 = the largest of p95(size)

So a request is planned as the mean work of those that come, and what must fit into the objective, and the quantile from
which waits are computed, is that of the largest size, whoever asks for it. For example, images of 1 s at the default
size, of which as many are asked for at 0.25 and at 2.25 times that work, are planned as 1.17 s with a tail of 2.25 s.

A size of which nothing is known yet counts as if one request for it had come. The mix that was planned with is kept
until a share has changed by more than `TELLING_SHARE`, and by more than chance explains: the standard error of a share
p of n requests, √(p·(1 - p)/n). Every other mix has the cascade prepared anew, which takes a part of a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from cascade_api.profile import Execution
from cascade_api.report import RouterReport

from .allocation import PoolKey

TELLING_SHARE: Final = 0.01

Mix = Mapping[str, float]
"""The share of requests for each size."""


def next_mix(sizes: Sequence[str], *, reports: Sequence[RouterReport], last: Mix) -> dict[str, float]:
    """The mix to plan with from now on; without reports, the ``last`` one."""
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.arrived)
    total = sum(counts[size] + 1 for size in sizes)
    found = {size: round((counts[size] + 1) / total, 4) for size in sizes}
    steady = all(
        abs(share - last.get(size, 0.0)) <= max(TELLING_SHARE, math.sqrt(share * (1 - share) / total))
        for size, share in found.items()
    )
    return dict(last) if last.keys() == found.keys() and (steady or not reports) else found


def mixed(own: Sequence[Execution], every: Sequence[Execution], sizes: Sequence[str], mix: Mix) -> list[Execution]:
    """The rows of a mix of sizes, from the rows of the default size (``own``) and those of all sizes.

    A batch that was not measured at one of the sizes is left out.
    """
    known = {(row.variant, row.accelerator_class, row.batch, row.size): row for row in every}
    shares = {size: mix.get(size, 1 / len(sizes)) for size in sizes}
    total = sum(shares.values())
    found = []
    for row in own:
        parts = {size: known.get((row.variant, row.accelerator_class, row.batch, size)) for size in sizes}
        here = {size: part for size, part in parts.items() if part is not None}
        if len(here) < len(sizes):
            continue
        p50 = round(sum(shares[size] * part.p50_micros for size, part in here.items()) / total)
        p95 = max(part.p95_micros for part in here.values())
        found.append(row.model_copy(update={"p50_micros": p50, "p95_micros": p95}))
    return found


def seconds_by_size(every: Sequence[Execution], sizes: Sequence[str]) -> dict[PoolKey, dict[str, dict[int, float]]]:
    """Median seconds of a batch by pool, size and number of images."""
    found: dict[PoolKey, dict[str, dict[int, float]]] = {}
    for size in sizes:
        for row in (row for row in every if row.size == size):
            by_size = found.setdefault((row.variant, row.accelerator_class), {})
            by_size.setdefault(size, {})[row.batch] = row.p50_micros / 1e6
    return found
