"""The time of an image in every setting, from a few settings that were timed. Pure.

With the same weights, and either with guidance or without it, the time of an image is a fixed part plus a part for each
step. So the setting with the fewest steps and the one with the most are timed, and the others lie on the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade_models.manifest import ManifestVariant

from .space import guided


def to_time(candidates: Sequence[ManifestVariant]) -> list[ManifestVariant]:
    """The candidates to be timed, in their order."""
    ends = {name for group in _groups(candidates) for name in (group[0].name, group[-1].name)}
    return [candidate for candidate in candidates if candidate.name in ends]


def prices(candidates: Sequence[ManifestVariant], timed_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds of an image by candidate; ``timed_s`` has those of all candidates in `to_time`."""
    found: dict[str, float] = {}
    for group in _groups(candidates):
        first, last = group[0], group[-1]
        further = last.settings.steps - first.settings.steps
        # A difference below zero is noise of the measurement.
        step_s = max(0.0, timed_s[last.name] - timed_s[first.name]) / further if further else 0.0
        for one in group:
            found[one.name] = timed_s[first.name] + step_s * (one.settings.steps - first.settings.steps)
    return {candidate.name: found[candidate.name] for candidate in candidates}


def _groups(candidates: Sequence[ManifestVariant]) -> list[list[ManifestVariant]]:
    """Candidates whose times are on one line, each group by rising steps."""
    groups: dict[tuple[str, bool], list[ManifestVariant]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.model, guided(candidate)), []).append(candidate)
    return [sorted(group, key=lambda one: (one.settings.steps, one.name)) for group in groups.values()]
