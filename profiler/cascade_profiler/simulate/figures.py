"""The figures of a run, and of several runs with their spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..frontier.profiles import Charges
from .outcomes import Way, window_means
from .quality import realised_quality
from .runs import Run

FIGURES = (
    "quality_time_mean",
    "quality_request_mean",
    "quality_planned_mean",
    "violation_percent",
    "degraded_percent",
    "dropped_percent",
    "p50_s",
    "p99_s",
    "switches",
    "gpu_seconds",
)


def figures_of(run: Run, charges: Charges) -> dict[str, float]:
    """FIGURES of one run. Latencies are those of answers; ``gpu_seconds`` is the time that accelerators executed."""
    outcomes = run.outcomes
    values = realised_quality(outcomes, charges)
    windows = outcomes.window
    answered = outcomes.latency_s[~outcomes.lost]
    p50, p99 = np.quantile(answered, (0.5, 0.99)) if len(answered) else (float("nan"), float("nan"))
    return {
        "quality_time_mean": _mean(window_means(windows, values)[1]),
        "quality_request_mean": _mean(values[~np.isnan(values)]),
        "quality_planned_mean": _mean(window_means(windows, outcomes.planned)[1]),
        "violation_percent": 100 * float(outcomes.violations.mean()),
        "degraded_percent": 100 * float((outcomes.way == Way.DEGRADED).mean()),
        "dropped_percent": 100 * float(outcomes.lost.mean()),
        "p50_s": float(p50),
        "p99_s": float(p99),
        "switches": float(run.switches),
        "gpu_seconds": run.gpu_seconds,
    }


def summary(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean and sample standard deviation (``…_sd``, 0 for one run) of each figure over runs."""
    result: dict[str, float] = {}
    for name in FIGURES:
        values = np.asarray([f[name] for f in figures])
        result[name] = float(values.mean())
        result[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return result


def _mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(values.mean()) if len(values) else float("nan")
