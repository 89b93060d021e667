"""Whether what a running cascade does is what its profile says: times of batches, distributions of scores (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_api.profile import ProfileSpec
from cascade_api.report import RouterReport

Floats = npt.NDArray[np.float64]

LEAST_BATCHES: Final = 5
"""Batches of a size below which its time is not judged."""
LEAST_REQUESTS: Final = 200
"""Requests that a router must have seen before its scores are compared."""
SCORES_APART: Final = 0.2
"""Greatest difference of two score distributions (Kolmogorov-Smirnov) that still counts as the same."""
DISPATCH_S: Final = 0.002
"""What a profile's time holds and a model's own does not: a server hands out its answers and gathers the next batch."""


@dataclass(frozen=True)
class Served:
    """Batches of one size that the workers of a variant ran for images that they were asked for."""

    variant: str
    accelerator_class: str
    batch: int
    count: int
    mean_s: float


@dataclass(frozen=True)
class DriftFinding:
    """One figure compared with the profile."""

    subject: str
    found: str
    expected: str
    drifted: bool

    def line(self) -> str:
        verdict = "DRIFTED" if self.drifted else "ok"
        return f"{verdict:<8} {self.subject}: {self.found}; profile: {self.expected}"


def time_findings(served: Sequence[Served], profile: ProfileSpec, *, tolerance: float) -> Iterator[DriftFinding]:
    """One for each variant, class and batch size that ran often enough; ``tolerance`` is a share of the time."""
    for one in served:
        if one.count < LEAST_BATCHES:
            continue
        subject = f"{one.variant} on {one.accelerator_class}, batch {one.batch}"
        found = f"{1000 * one.mean_s:.1f} ms (mean of {one.count})"
        bounds = _bounds(one, profile)
        if bounds is None:
            yield DriftFinding(subject, found, "does not know this variant and class", drifted=True)
            continue
        fastest, slowest = bounds
        within = fastest * (1 - tolerance) - DISPATCH_S <= one.mean_s <= slowest * (1 + tolerance)
        yield DriftFinding(subject, found, f"{1000 * fastest:.1f} to {1000 * slowest:.1f} ms", drifted=not within)


def score_findings(reports: Sequence[RouterReport], profile: ProfileSpec) -> Iterator[DriftFinding]:
    """One for hardness, and one for the confidence of each light variant, where routers have seen enough."""
    seen = [report for report in reports if report.received >= LEAST_REQUESTS]
    known: Mapping[str, list[int]] = profile.scores.confidence_milli
    live = {"hardness": [report.hardness for report in seen]}
    live |= {f"confidence of {name}": [report.confidence.get(name, []) for report in seen] for name in known}
    expected = {"hardness": profile.scores.hardness_milli}
    expected |= {f"confidence of {name}": points for name, points in known.items()}
    for subject, sketches in live.items():
        points = [point for sketch in sketches for point in sketch]
        if not points or not expected[subject]:
            continue
        true = np.array(expected[subject]) / 1000
        apart = distance(np.sort(points), true)
        found = f"median {np.median(points):.2f}, distributions {apart:.2f} apart (at most {SCORES_APART})"
        yield DriftFinding(subject, found, f"median {np.median(true):.2f}", drifted=bool(apart > SCORES_APART))


def distance(one: Floats, other: Floats) -> float:
    """Greatest difference of the distribution functions of two rising lists of evenly spaced quantiles."""
    places = np.unique(np.concatenate((one, other)))
    gaps = [
        np.abs(np.searchsorted(one, places, side) / len(one) - np.searchsorted(other, places, side) / len(other))
        for side in ("left", "right")
    ]
    # At a value that repeats the two sides differ, and where both jump by the same there is no gap.
    return float(np.minimum(*gaps).max())


def _bounds(served: Served, profile: ProfileSpec) -> tuple[float, float] | None:
    """Seconds that a batch may take: judged by the discriminator or not."""
    rows = [
        row
        for row in profile.execution
        if (row.variant, row.accelerator_class) == (served.variant, served.accelerator_class)
    ]
    if not rows:
        return None
    plain = _at([(row.batch, row.p50_micros) for row in rows], served.batch)
    lights = {row.light for row in profile.quality if not row.alone}
    judging = [
        (d.batch, d.p50_micros) for d in profile.discriminator if d.accelerator_class == served.accelerator_class
    ]
    judged = _at(judging, served.batch) if judging and served.variant in lights else 0.0
    return plain, plain + judged


def _at(points: Sequence[tuple[int, int]], batch: int) -> float:
    """Seconds at a batch size, between measured sizes by straight line."""
    batches, micros = zip(*sorted(points), strict=True)
    return float(np.interp(batch, batches, micros)) / 1e6
