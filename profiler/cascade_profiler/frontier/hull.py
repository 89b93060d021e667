"""The upper hull of a profile: its rows that give more quality than any mixture of others in the same time."""

from __future__ import annotations

from dataclasses import dataclass

from cascade_api.profile import ProfileSpec
from cascade_operator.planning.allocation import Portion, Row, gpu_seconds, measured, upper_hull

from .profiles import variants_of


@dataclass(frozen=True)
class Point:
    """A row, its accelerator-seconds per image at batch 1, and its value of the objective metric."""

    row: Row
    gpu_seconds: float
    metric: float


def points(profile: ProfileSpec, accelerator_class: str) -> list[Point]:
    """All rows that can run on one class, the cheapest first."""
    single = {
        row.variant: row.p50_micros / 1e6
        for row in profile.execution
        if row.accelerator_class == accelerator_class and row.batch == 1
    }
    judge_s = next(
        (d.p50_micros / 1e6 for d in profile.discriminator if (d.accelerator_class, d.batch) == (accelerator_class, 1)),
        0.0,
    )
    frontier = measured(profile, variants=variants_of(profile))
    found = [
        Point(
            row,
            gpu_seconds((Portion(1.0, row),), light_s=single[row.light] + judge_s, heavy_s=single[row.heavy]),
            frontier.metric(row.value),
        )
        for chain in frontier.chains
        for row in chain.rows
        if all(name in single for name in row.chain)
    ]
    return sorted(found, key=lambda p: (p.gpu_seconds, -p.row.value))


def hull(candidates: list[Point]) -> list[Point]:
    """The points on the upper hull. Along it, quality rises with accelerator time, but ever more slowly."""
    return upper_hull(candidates, cost=lambda point: point.gpu_seconds, worth=lambda point: point.row.value)
