"""The report of a simulation: one HTML file with a table and plots for all policies."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..report.charts import Series, chart
from ..report.document import document
from . import courses
from .campaign import CampaignRequest, PolicyResult
from .outcomes import WINDOW_S
from .runs import Run

_COLUMNS: Final = (
    ("quality_time_mean", "realised, by time", 3),
    ("quality_request_mean", "realised, by request", 3),
    ("quality_planned_mean", "planned", 3),
    ("violation_percent", "violations %", 3),
    ("degraded_percent", "degraded %", 2),
    ("dropped_percent", "dropped %", 3),
    ("p50_s", "p50 s", 2),
    ("p99_s", "p99 s", 2),
    ("switches", "switches", 0),
    ("gpu_seconds", "busy s", 0),
)


def page(request: CampaignRequest, results: Sequence[PolicyResult]) -> str:
    """The report as HTML; plots show each policy's first seed."""
    spec = request.profile.profile.spec
    metric = f"{spec.objective_metric} ({'less' if spec.direction == 'min' else 'more'} is better)"
    workers = ", ".join(f"{count} {name}" for name, count in request.workers.items())
    switch = "as in the profile" if request.switch_s is None else f"{request.switch_s:g} s"
    runs = [result.first for result in results]
    charges = request.profile.charges
    parts = [
        f"<h1>{html.escape(request.profile.name)} on {html.escape(request.trace)}</h1>",
        f"<p>{html.escape(workers)}; objective {request.objective_s:g} s; {request.seeds} seeds; a switch takes "
        f"{switch}. Quality is {html.escape(metric)}.</p>",
        _table(results),
        chart(
            "Realised quality",
            [Series(run.policy, courses.quality(run, charges)) for run in runs],
            x_label="seconds",
            y_label=spec.objective_metric,
        ),
        chart(
            "Violations",
            [Series(run.policy, courses.violations(run)) for run in runs],
            x_label="seconds",
            y_label=f"% of {WINDOW_S:g} s",
        ),
        chart(
            "Plans: share that the heavy model is asked to serve",
            [_heavy_share(run) for run in runs],
            x_label="seconds",
            y_label="share",
        ),
        chart("Latency", [_latency(run) for run in runs], x_label="seconds", y_label="% answered within"),
        *(_pools(run) for run in runs),
        *(_changes(run) for run in runs),
    ]
    return document(f"{request.profile.name} on {request.trace}", parts)


def _table(results: Sequence[PolicyResult]) -> str:
    head = "".join(f"<th>{label}</th>" for _, label, _ in _COLUMNS)
    rows = []
    for result in results:
        cells = "".join(
            f"<td>{result.figures[name]:.{digits}f} ± {result.figures[name + '_sd']:.{digits}f}</td>"
            for name, _, digits in _COLUMNS
        )
        rows.append(f"<tr><td>{html.escape(result.name)}</td>{cells}</tr>")
    return f"<table><tr><th>policy</th>{head}</tr>{''.join(rows)}</table>"


def _heavy_share(run: Run) -> Series:
    points = [(max(change.at_s, 0.0), change.heavy_share) for change in run.changes]
    return Series(run.policy, [*points, (_end(run), points[-1][1])] if points else [], steps=True)


def _latency(run: Run) -> Series:
    answered = np.sort(run.outcomes.latency_s[~run.outcomes.lost])
    if not len(answered):
        return Series(run.policy, [])
    levels = np.linspace(0, 1, 201)
    share = len(answered) / len(run.outcomes.latency_s)
    points = zip(np.quantile(answered, levels), 100 * share * levels, strict=True)
    return Series(run.policy, [(float(x), float(y)) for x, y in points])


def _pools(run: Run) -> str:
    variants = sorted({variant for change in run.changes for variant in change.replicas})
    series = [
        Series(
            variant,
            [
                *((max(change.at_s, 0.0), float(change.replicas.get(variant, 0))) for change in run.changes),
                (_end(run), float(run.changes[-1].replicas.get(variant, 0))),
            ],
            steps=True,
        )
        for variant in variants
    ]
    return chart(f"Replicas under {run.policy}", series, x_label="seconds", y_label="replicas")


def _changes(run: Run) -> str:
    lines = "".join(f"<li>{change.at_s:.1f} s: {html.escape(change.says)}</li>" for change in run.changes)
    return (
        f"<details><summary>Plans of {html.escape(run.policy)}: {len(run.changes)}</summary><ol>{lines}</ol></details>"
    )


def _end(run: Run) -> float:
    return float(run.outcomes.arrival_s[-1])
