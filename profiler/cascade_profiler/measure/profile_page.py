"""Writes the HTML report of a profile: times, starts, quality by share of heavy images, and example images."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_api.profile import CascadeProfile, Metric, ProfileSpec, QualityRow

from ..frontier.hull import hull, points
from ..report.charts import Series, chart
from ..report.document import document, picture, table

CELLS: Final = ((0, 0), (50, 0), (0, 50), (20, 30), (100, 0))
"""The cells (r, d) that the table of metrics shows, in percent."""

Images = Mapping[str, npt.NDArray[np.uint8]]


def profile_page(profile: CascadeProfile, prompts: Sequence[str], shown: Images) -> str:
    """The report as HTML; ``shown`` has the images of the first prompts by variant, the cheapest variant first."""
    spec = profile.spec
    source = spec.source
    return document(
        f"Profile {profile.metadata.name}",
        [
            f"<h1>{html.escape(profile.metadata.name)}</h1>",
            f"<p>{html.escape(source.tool)}, {html.escape(source.time)}, {source.prompts} prompts. The planner follows "
            f"{html.escape(spec.objective_metric)}.</p>",
            "<h2>Times</h2>",
            _times(spec),
            *_time_charts(spec),
            _starts(spec),
            "<h2>Quality</h2>",
            _metrics(spec),
            *_quality(spec),
            "<h2>Accelerator time against quality</h2>",
            *_frontiers(spec),
            "<h2>Images</h2>",
            _samples(prompts, shown),
        ],
    )


def _times(spec: ProfileSpec) -> str:
    head = ["variant", "class", "size", "batch", "p50 ms", "p95 ms", "p99 ms", "ms per image", "memory MiB"]
    rows = [
        [
            row.variant,
            row.accelerator_class,
            row.size,
            str(row.batch),
            *(_millis(micros) for micros in (row.p50_micros, row.p95_micros, row.p99_micros)),
            _millis(row.p50_micros / row.batch),
            str(row.memory_mi_b),
        ]
        for row in spec.execution
    ]
    rows += [
        ["discriminator", row.accelerator_class, "", str(row.batch), _millis(row.p50_micros), _millis(row.p95_micros)]
        for row in spec.discriminator
    ]
    return table(head, rows)


def _time_charts(spec: ProfileSpec) -> Iterator[str]:
    for accelerator_class in dict.fromkeys(row.accelerator_class for row in spec.execution):
        rows = [row for row in spec.execution if row.accelerator_class == accelerator_class]
        series = [
            Series(name, [(row.batch, row.p50_micros / row.batch / 1000) for row in rows if row.variant == name])
            for name in dict.fromkeys(row.variant for row in rows)
        ]
        yield chart(f"Median time of an image on {accelerator_class}", series, x_label="batch", y_label="ms")


def _starts(spec: ProfileSpec) -> str:
    rows = [[row.variant, row.accelerator_class, str(row.cold_seconds), str(row.load_millis)] for row in spec.startup]
    return table(["start of", "class", "cold s", "in place ms"], rows)


def _metrics(spec: ProfileSpec) -> str:
    rows = [
        [metric.name, "less" if metric.direction == "min" else "more", metric.meaning or ""] for metric in spec.metrics
    ]
    return table(["metric", "better", "what it is"], rows)


def _quality(spec: ProfileSpec) -> Iterator[str]:
    for row in (row for row in spec.quality if row.alone):
        yield f"<h3>{html.escape(row.path)} alone</h3>"
        yield table(["metric", "value"], [[metric.name, _value(metric, row)] for metric in spec.metrics])
    for chain in dict.fromkeys(row.chain for row in spec.quality if not row.alone):
        rows = {
            (row.direct_percent, row.escalation_percent): row
            for row in spec.quality
            if row.chain == chain and row.direct_percent is not None and row.escalation_percent is not None
        }
        yield f"<h3>{html.escape(' to '.join(chain))}</h3>"
        head = [
            "metric",
            *(f"r {direct} %, d {escalation} %" for direct, escalation in CELLS if (direct, escalation) in rows),
        ]
        yield table(
            head,
            [[metric.name, *(_value(metric, rows[cell]) for cell in CELLS if cell in rows)] for metric in spec.metrics],
        )
        yield "<p>After ±: one standard error, by bootstrap over prompts.</p>"
        for metric in spec.metrics:
            yield _shares(metric, rows)


def _shares(metric: Metric, rows: Mapping[tuple[int, int], QualityRow]) -> str:
    def line(name: str, cells: Sequence[tuple[int, int]]) -> Series:
        return Series(
            name,
            [
                (direct + (100 - direct) * escalation / 100, rows[direct, escalation].values_milli[metric.name] / 1000)
                for direct, escalation in cells
                if (direct, escalation) in rows
            ],
        )

    steps = range(0, 101, 10)
    ends = line("by chance", [(0, 0), (100, 0)])
    series = [
        *([ends] if not metric.name.startswith("fd-") else []),
        line("by prompt (d = 0)", [(step, 0) for step in steps]),
        line("by confidence (r = 0)", [(0, step) for step in steps]),
        line("both (r = 20 %)", [(20, step) for step in steps]),
    ]
    return chart(metric.name, series, x_label="% of prompts that the heavy variant serves", y_label=metric.name)


def _frontiers(spec: ProfileSpec) -> Iterator[str]:
    for accelerator_class in dict.fromkeys(row.accelerator_class for row in spec.execution):
        every = points(spec, accelerator_class)
        series = [
            Series("measured rows", [(p.gpu_seconds, p.metric) for p in every], dots=True, colour="#bbb"),
            Series("worth using", [(p.gpu_seconds, p.metric) for p in hull(every)]),
        ]
        yield chart(
            f"On {accelerator_class}",
            series,
            x_label="accelerator seconds per image, batch 1",
            y_label=spec.objective_metric,
        )


def _samples(prompts: Sequence[str], shown: Images) -> str:
    count = min((len(images) for images in shown.values()), default=0)
    rows = [
        [prompts[at], *(picture(images[at], f"{name}: {prompts[at]}") for name, images in shown.items())]
        for at in range(count)
    ]
    return table(["prompt", *shown], rows, kind="samples")


def _value(metric: Metric, row: QualityRow) -> str:
    error = (row.errors_milli or {}).get(metric.name)
    value = f"{row.values_milli[metric.name] / 1000:.3f}"
    return value if error is None else f"{value} ± {error / 1000:.3f}"


def _millis(micros: float | None) -> str:
    return "" if micros is None else f"{micros / 1000:.2f}"
