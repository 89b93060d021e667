"""The rows that some settings allow: each setting alone, and the cells (r, d) of each chain of two of them. Pure.

All rows are computed from one image per setting and prompt. The cells of a chain of a light and a heavy setting are as
in a profile (`measure.grid`): the share r of the prompts, the hardest ones, goes straight to the heavy setting; of the
rest, the share d whose light images have the least confidence escalates. If e are the seconds of an image, and j those
of a judgement, a prompt takes

    (1 - r)·(e_light + j) + (r + (1 - r)·d)·e_heavy

The expected outcome of each prompt is kept beside the mean, so that rows are compared prompt by prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ..measure.grid import Floats, Ranking

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_TENTHS: Final = tuple(round(0.1 * step, 1) for step in range(10))


@dataclass(frozen=True)
class Family:
    """The cells (r, d) that a way of routing uses, and whether it judges light images."""

    name: str
    cells: tuple[tuple[float, float], ...]
    judges: bool = True


# All prompts direct, or none direct and none escalated, are settings alone. That all escalate is only dearer.
SINGLE: Final = Family("single settings", ())
PROMPT_RULE: Final = Family("prompt rule", tuple((r, 0.0) for r in _TENTHS[1:]), judges=False)
CASCADE: Final = Family("cascade", tuple((0.0, d) for d in _TENTHS[1:]))
HYBRID: Final = Family("hybrid", tuple((r, d) for r in _TENTHS for d in _TENTHS if (r, d) != (0.0, 0.0)))


@dataclass(frozen=True)
class Evidence:
    """What is known of S settings from the images of the same n prompts.

    Attributes:
        names: the settings.
        seconds: ``[S]``, accelerator-seconds of an image.
        judging_s: accelerator-seconds of a judgement.
        values: ``[S, n]``, the objective metric by image; greater is better.
        confidence: ``[S, n]``, the discriminator's, by image.
        hardness: ``[n]``, the prompt scorer's.
    """

    names: tuple[str, ...]
    seconds: Floats
    judging_s: float
    values: Floats
    confidence: Floats
    hardness: Floats

    @property
    def prompts(self) -> int:
        return len(self.hardness)

    def of(self, names: Sequence[str]) -> Evidence:
        """What is known of some of the settings, in this order."""
        chosen = [self.names.index(name) for name in names]
        return replace(
            self,
            names=tuple(names),
            seconds=self.seconds[chosen],
            values=self.values[chosen],
            confidence=self.confidence[chosen],
        )

    @functools.cached_property
    def _hardest(self) -> Ranking:
        return Ranking(self.hardness)

    @functools.cached_property
    def _doubtful(self) -> tuple[Ranking, ...]:
        return tuple(Ranking(-scores) for scores in self.confidence)

    def escalated(self, light: int, direct: float, escalation: float, weights: Floats) -> Floats:
        """``[n]``: the part of each prompt's weight that the heavy setting of a chain serves."""
        straight = self._hardest.top(weights, direct) if direct else np.zeros_like(weights)
        further: Floats = self._doubtful[light].top(weights - straight, escalation) if escalation else 0.0 * weights
        return straight + further


@dataclass(frozen=True)
class Row:
    """One row by its settings' names; a setting alone is light and heavy at the same time."""

    light: str
    heavy: str
    direct: float = 1.0
    escalation: float = 0.0
    judged: bool = False

    @property
    def alone(self) -> bool:
        return self.light == self.heavy

    def seconds(self, evidence: Evidence) -> float:
        """Accelerator-seconds of a prompt."""
        light, heavy = (float(evidence.seconds[evidence.names.index(name)]) for name in (self.light, self.heavy))
        if self.alone:
            return heavy
        light += evidence.judging_s if self.judged else 0.0
        return (1 - self.direct) * light + (self.direct + (1 - self.direct) * self.escalation) * heavy

    def outcome(self, evidence: Evidence, weights: Floats) -> Floats:
        """``[n]``: the expected value of each prompt's answer, times the prompt's weight."""
        light, heavy = (evidence.names.index(name) for name in (self.light, self.heavy))
        found: Floats = weights * evidence.values[light]
        if not self.alone:
            share = evidence.escalated(light, self.direct, self.escalation, weights)
            found += share * (evidence.values[heavy] - evidence.values[light])
        return found

    def text(self) -> str:
        """The row in words."""
        if self.alone:
            return self.light
        return f"{self.light} to {self.heavy}, direct {self.direct:.0%}, escalated {self.escalation:.0%}"


class Rows:
    """All rows of a family, except those that another row of the same chain makes needless.

    Attributes:
        light: ``[R]``, the index of the light setting.
        heavy: ``[R]``, that of the heavy one; the same for a setting alone.
        seconds: ``[R]``, accelerator-seconds of a prompt.
        means: ``[R]``, the mean of the objective metric.
    """

    def __init__(self, evidence: Evidence, family: Family = HYBRID) -> None:
        self.evidence = evidence
        self._family = family
        settings = len(evidence.names)
        alone = np.arange(settings)
        light, heavy, cell = [alone], [alone], [np.full(settings, -1)]
        seconds, means = [evidence.seconds], [evidence.values.mean(axis=1)]
        self._shares: dict[int, Floats] = {}
        if family.cells:
            direct, escalation = np.array(family.cells).T
            judging_s = evidence.judging_s if family.judges else 0.0
            for at in range(settings):
                dearer = np.flatnonzero(evidence.seconds > evidence.seconds[at])
                if not len(dearer):
                    continue
                shares = self._cells(at)
                gains = shares @ (evidence.values[dearer] - evidence.values[at]).T / evidence.prompts
                found = evidence.values[at].mean() + gains.T
                first_s = (1 - direct) * (evidence.seconds[at] + judging_s)
                cost_s = first_s + (direct + (1 - direct) * escalation) * evidence.seconds[dearer][:, None]
                kept = _undominated(cost_s, found)
                which, cells = np.nonzero(kept)
                light.append(np.full(len(which), at))
                heavy.append(dearer[which])
                cell.append(cells)
                seconds.append(cost_s[kept])
                means.append(found[kept])
        self.light: Indices = np.concatenate(light)
        self.heavy: Indices = np.concatenate(heavy)
        self._cell: Indices = np.concatenate(cell)
        self.seconds: Floats = np.concatenate(seconds)
        self.means: Floats = np.concatenate(means)
        self._order: Indices = np.lexsort((-self.means, self.seconds))

    def outcomes(self, rows: Indices) -> Floats:
        """``[len(rows), n]``: the expected value of each prompt's answer."""
        values = self.evidence.values
        found = values[self.light[rows]].copy()
        for at in np.unique(self.light[rows]):
            chained = np.flatnonzero((self.light[rows] == at) & (self._cell[rows] >= 0))
            if len(chained):
                of = rows[chained]
                found[chained] += self._cells(int(at))[self._cell[of]] * (values[self.heavy[of]] - values[at])
        return found

    def row(self, index: int) -> Row:
        """A row by its index."""
        names = self.evidence.names
        light, heavy = names[self.light[index]], names[self.heavy[index]]
        if self._cell[index] < 0:
            return Row(light, heavy)
        direct, escalation = self._family.cells[self._cell[index]]
        return Row(light, heavy, direct, escalation, self._family.judges)

    def of(self, kept: Mask) -> Mask:
        """``[R]``: the rows all of whose settings are kept, by a mask ``[S]``."""
        found: Mask = kept[self.light] & kept[self.heavy]
        return found

    def best(self, among: Mask) -> Indices:
        """Of some rows, those that are better than all cheaper ones, the cheapest first."""
        ordered = self._order[among[self._order]]
        if not len(ordered):
            return ordered
        means = self.means[ordered]
        before = np.concatenate(([-np.inf], np.maximum.accumulate(means)[:-1]))
        return ordered[means > before]

    def _cells(self, light: int) -> Floats:
        """``[C, n]``: by cell, the part of each prompt that escalates from a light setting or goes direct."""
        if light not in self._shares:
            ones = np.ones(self.evidence.prompts)
            self._shares[light] = np.stack([self.evidence.escalated(light, r, d, ones) for r, d in self._family.cells])
        return self._shares[light]


def _undominated(seconds: Floats, means: Floats) -> Mask:
    """For each chain of ``[chains, C]`` cells: whether a cell is better than all cheaper ones of its chain."""
    order = np.argsort(seconds, axis=1, kind="stable")
    sorted_means = np.take_along_axis(means, order, axis=1)
    before = np.maximum.accumulate(sorted_means, axis=1)
    better = np.ones_like(sorted_means, dtype=bool)
    better[:, 1:] = sorted_means[:, 1:] > before[:, :-1]
    found = np.zeros_like(better)
    np.put_along_axis(found, order, better, axis=1)
    return found
