"""Runs `cascade frontier`: writes the hull of a profile as a table, as data and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..report.charts import Series, chart
from ..report.document import document
from .hull import hull, points
from .inputs import BadInput
from .profiles import load_profile


def listing(name: str) -> tuple[str, dict[str, Any], str]:
    """The hull of a profile by class: as a text table, as data for JSON, and as an HTML page."""
    loaded = load_profile(name)
    spec = loaded.profile.spec
    lines: list[str] = []
    data: dict[str, Any] = {"profile": loaded.name, "metric": spec.objective_metric, "classes": {}}
    figures = []
    for accelerator_class in dict.fromkeys(row.accelerator_class for row in spec.execution):
        every = points(spec, accelerator_class)
        best = hull(every)
        lines.append(f"{loaded.name} on {accelerator_class}: {len(best)} of {len(every)} rows are on the hull")
        lines.append(
            f"{'GPU s/image':>12} {spec.objective_metric:>9} {'direct':>7} {'escalate':>9} {'heavy':>6}  chain"
        )
        lines += [
            f"{p.gpu_seconds:12.4f} {p.metric:9.3f} {p.row.direct:7.0%} {p.row.escalation:9.0%} "
            f"{p.row.heavy_load:6.0%}  {p.row.path}"
            for p in best
        ]
        data["classes"][accelerator_class] = [
            {
                "gpu_seconds": p.gpu_seconds,
                "quality": p.metric,
                "chain": list(p.row.chain),
                "direct": p.row.direct,
                "escalation": p.row.escalation,
            }
            for p in best
        ]
        series = [
            Series("measured rows", [(p.gpu_seconds, p.metric) for p in every], dots=True, colour="#bbb"),
            Series("hull", [(p.gpu_seconds, p.metric) for p in best]),
        ]
        title = f"{loaded.name} on {accelerator_class}"
        figures.append(
            chart(title, series, x_label="accelerator seconds per image, batch 1", y_label=spec.objective_metric)
        )
    return "\n".join(lines), data, document(loaded.name, figures)


def drawing(file: str, page: str) -> None:
    """Write the plot; raises BadInput if the file cannot be written."""
    try:
        Path(file).write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput("--plot", f"{file}: {error.strerror}") from None
