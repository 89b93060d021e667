"""How a simulated run went from window to window, for the report's plots and for charts in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..frontier.profiles import Charges
from ..report.terminal import chart
from .outcomes import WINDOW_S, window_means
from .quality import realised_quality
from .runs import Run

CHART_WIDTH = 60
Points = list[tuple[float, float]]
"""Seconds and values."""


def quality(run: Run, charges: Charges) -> Points:
    """The mean realised quality of each window."""
    windows, means = window_means(run.outcomes.window, realised_quality(run.outcomes, charges))
    return [(float(w) * WINDOW_S, float(q)) for w, q in zip(windows, means, strict=True)]


def violations(run: Run) -> Points:
    """The percentage of each window's requests that violate the objective."""
    windows, means = window_means(run.outcomes.window, run.outcomes.violations.astype(np.float64))
    return [(float(w) * WINDOW_S, 100 * float(v)) for w, v in zip(windows, means, strict=True)]


def arrivals(run: Run) -> Points:
    """The requests a second of each window."""
    windows, counts = np.unique(run.outcomes.window, return_counts=True)
    return [(float(w) * WINDOW_S, float(n) / WINDOW_S) for w, n in zip(windows, counts, strict=True)]


def lines(runs: Sequence[Run], charges: Charges, *, metric: str) -> list[str]:
    """Charts for a terminal: what arrived, and of each policy what became of it."""
    told = [_line("requests", arrivals(runs[0]), "a second")]
    for run in runs:
        told += [
            run.policy,
            _line("  quality", quality(run, charges), metric),
            _line("  violations", violations(run), "%"),
        ]
    return told


def _line(name: str, points: Iterable[tuple[float, float]], unit: str) -> str:
    values = {round(at / WINDOW_S): value for at, value in points}
    whole = [values.get(window) for window in range(max(values, default=-1) + 1)]
    return chart(name, whole, unit=unit, width=CHART_WIDTH)
