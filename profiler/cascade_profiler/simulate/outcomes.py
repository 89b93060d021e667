"""How every request of a run ended, in columns, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_api.chains import Variants

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Way(IntEnum):
    """How a request ended: which stages made its image, or that it got none."""

    DIRECT = 0
    """The heavy variant alone."""
    ACCEPTED = 1
    """The light image was good enough."""
    ESCALATED = 2
    """The light image was made again by the heavy variant."""
    DEGRADED = 3
    """A heavy image was wanted, but the light one was the answer."""
    LOST = 4
    """Refused, dropped or failed."""


class DrawnRow(NamedTuple):
    """The planned row that a request was drawn for; if the chain is empty, only the variant counts."""

    chain: Variants
    direct: float
    escalation: float


WINDOW_S: Final = 5.0


@dataclass(frozen=True)
class Outcomes:
    """One line per request, in the order of arrival; ``variants`` and ``rows`` are what the codes stand for."""

    arrival_s: Floats
    latency_s: Floats
    """Seconds until the answer; infinite for lost requests."""
    way: Integers
    variant: Integers
    """The code of the variant that made the image; -1 if there is none."""
    row: Integers
    planned: Floats
    """The objective metric that the plan in force promised when the request arrived; NaN without a plan."""
    variants: tuple[str, ...]
    rows: tuple[DrawnRow, ...]
    objective_s: float

    @property
    def lost(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.way == Way.LOST, dtype=np.bool_)

    @property
    def late(self) -> npt.NDArray[np.bool_]:
        """Whether each request was answered after the objective."""
        return ~self.lost & (self.latency_s > self.objective_s + 1e-9)

    @property
    def violations(self) -> npt.NDArray[np.bool_]:
        return self.lost | self.late

    @property
    def window(self) -> Integers:
        """Number of the window that each request arrived in."""
        return np.floor(self.arrival_s / WINDOW_S).astype(np.int64)


@dataclass
class Recorder:
    """Collects outcomes while a simulation runs; requests end in any order."""

    objective_s: float
    expected: int = -1
    """Requests that will end; with the last of them, `finished` is called."""
    finished: Callable[[], None] = lambda: None
    _lines: list[tuple[float, float, int, int, int, float]] = field(default_factory=list)
    _variants: dict[str, int] = field(default_factory=dict)
    _rows: dict[DrawnRow, int] = field(default_factory=dict)

    def record(
        self, *, arrival_s: float, end_s: float, way: Way, variant: str | None, row: DrawnRow, planned: float
    ) -> None:
        """Record that a request ended; ``variant`` made its image (None: there is none)."""
        number = -1 if variant is None else self._variants.setdefault(variant, len(self._variants))
        latency = float("inf") if way is Way.LOST else end_s - arrival_s
        line = (arrival_s, latency, int(way), number, self._rows.setdefault(row, len(self._rows)), planned)
        self._lines.append(line)
        if len(self._lines) == self.expected:
            self.finished()

    def outcomes(self) -> Outcomes:
        """Everything recorded."""
        table = np.asarray(sorted(self._lines), dtype=np.float64).reshape(-1, 6)
        return Outcomes(
            arrival_s=table[:, 0],
            latency_s=table[:, 1],
            way=table[:, 2].astype(np.int64),
            variant=table[:, 3].astype(np.int64),
            row=table[:, 4].astype(np.int64),
            planned=table[:, 5],
            variants=tuple(self._variants),
            rows=tuple(self._rows),
            objective_s=self.objective_s,
        )


def window_means(windows: Integers, values: Floats) -> tuple[Integers, Floats]:
    """The mean of each window that has values; NaN is ignored."""
    known = ~np.isnan(values)
    numbers, inverse = np.unique(windows[known], return_inverse=True)
    totals = np.bincount(inverse, weights=values[known], minlength=len(numbers))
    return numbers, totals / np.maximum(np.bincount(inverse, minlength=len(numbers)), 1)
