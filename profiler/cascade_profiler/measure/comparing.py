"""Compares a running cascade with its profile: the times of batches, and the distributions of scores. Pure."""

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
"""The fewest batches of a size whose time is compared."""
LEAST_REQUESTS: Final = 200
"""Requests that a router must have seen before its scores are compared."""
SCORES_APART: Final = 0.2
"""Greatest difference of two score distributions (Kolmogorov-Smirnov) that still counts as the same."""
DISPATCH_S: Final = 0.002
"""A profile's time of a batch includes what the server needs to send answers and form the next batch. The time that
the model itself reports does not, and may be shorter by this."""


@dataclass(frozen=True)
class Served:
    """The batches of one size that the workers of a variant ran for images that `cascade drift` asked for."""

    variant: str
    accelerator_class: str
    batch: int
    count: int
    mean_s: float


@dataclass(frozen=True)
class DriftFinding:
    """The comparison of one figure with the profile."""

    subject: str
    found: str
    expected: str
    drifted: bool

    def line(self) -> str:
        verdict = "DRIFTED" if self.drifted else "ok"
        return f"{verdict:<8} {self.subject}: {self.found}; profile: {self.expected}"


def time_findings(served: Sequence[Served], profile: ProfileSpec, *, tolerance: float) -> Iterator[DriftFinding]:
    """A finding for each variant, class and batch size that ran often enough; ``tolerance`` is a share of the time."""
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
    """A finding for hardness and for the confidence of each light variant, if routers have seen enough requests."""
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
    """The greatest difference between two distribution functions, each given by sorted, evenly spaced quantiles."""
    places = np.unique(np.concatenate((one, other)))
    gaps = [
        np.abs(np.searchsorted(one, places, side) / len(one) - np.searchsorted(other, places, side) / len(other))
        for side in ("left", "right")
    ]
    # At a repeated value, a distribution function jumps. If both jump alike, one of the sides shows no gap.
    return float(np.minimum(*gaps).max())


def _bounds(served: Served, profile: ProfileSpec) -> tuple[float, float] | None:
    """The seconds of a batch without and with the discriminator."""
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
    """The seconds of a batch, interpolated linearly between measured sizes."""
    batches, micros = zip(*sorted(points), strict=True)
    return float(np.interp(batch, batches, micros)) / 1e6
