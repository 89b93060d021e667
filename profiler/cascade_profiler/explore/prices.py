"""The time of an image in every setting, from a few settings that were timed. Pure.

With the same weights, the time of an image is a fixed part plus a part for each step, which is longer for guided steps.
So of settings that guide all steps, or none, those with the fewest steps and with the most are timed, and the others
lie on a line between them. A setting that guides a part of its steps takes the time of as many steps without guidance,
and what guidance adds for each of its guided steps. Each step cache has lines of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cascade_models.manifest import ManifestVariant

from .space import guided_steps

GUIDED_PASSES: Final = 2
"""Passes through the network of a guided step."""

_Key = tuple[str, str, bool]
"""Weights, step cache, and whether all steps are guided, or none."""


@dataclass(frozen=True)
class _Line:
    """Seconds of an image: ``fixed_s`` and ``step_s`` for each step."""

    fixed_s: float
    step_s: float

    def at(self, steps: int) -> float:
        return self.fixed_s + self.step_s * steps

    def steeper(self, factor: float) -> _Line:
        """The line on which a step takes ``factor`` times as long."""
        return _Line(self.fixed_s, factor * self.step_s)


def to_time(candidates: Sequence[ManifestVariant]) -> list[ManifestVariant]:
    """The candidates to be timed, in their order."""
    ends = {name for group in _groups(candidates).values() for name in (group[0].name, group[-1].name)}
    return [candidate for candidate in candidates if candidate.name in ends]


def prices(candidates: Sequence[ManifestVariant], timed_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds of an image by candidate; ``timed_s`` has those of all candidates in `to_time`."""
    lines = {key: _line(group, timed_s) for key, group in _groups(candidates).items()}
    return {one.name: _seconds(one, lines) for one in candidates}


def _seconds(candidate: ManifestVariant, lines: Mapping[_Key, _Line]) -> float:
    steps, guided = candidate.settings.steps, guided_steps(candidate)
    if guided in (0, steps):
        return lines[_key(candidate, guided=guided > 0)].at(steps)
    with_all, with_none = (_key(candidate, guided=guided) for guided in (True, False))
    # A line that was not timed is drawn by the number of passes.
    plain = lines.get(with_none) or lines[with_all].steeper(1 / GUIDED_PASSES)
    full = lines.get(with_all) or plain.steeper(GUIDED_PASSES)
    return plain.at(steps) + max(0.0, full.step_s - plain.step_s) * guided


def _line(group: Sequence[ManifestVariant], timed_s: Mapping[str, float]) -> _Line:
    first, last = group[0], group[-1]
    further = last.settings.steps - first.settings.steps
    # A difference below zero is noise of the measurement.
    step_s = max(0.0, timed_s[last.name] - timed_s[first.name]) / further if further else 0.0
    return _Line(timed_s[first.name] - step_s * first.settings.steps, step_s)


def _key(candidate: ManifestVariant, *, guided: bool) -> _Key:
    return candidate.model, candidate.settings.step_cache, guided


def _groups(candidates: Sequence[ManifestVariant]) -> dict[_Key, list[ManifestVariant]]:
    """Candidates whose times are on one line, by rising steps."""
    groups: dict[_Key, list[ManifestVariant]] = {}
    for candidate in candidates:
        if guided_steps(candidate) in (0, candidate.settings.steps):
            groups.setdefault(_key(candidate, guided=guided_steps(candidate) > 0), []).append(candidate)
    return {key: sorted(group, key=lambda one: (one.settings.steps, one.name)) for key, group in groups.items()}
