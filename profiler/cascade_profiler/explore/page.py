"""Writes the HTML report of an exploration: frontier, ways of routing, what was tried, images, and tiers."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ..report.charts import Series, chart
from ..report.document import document, picture, table
from .comparing import BEST_SINGLE, BUDGETS, CURVE, SYSTEMS
from .frontier import Hull
from .result import Result
from .rows import Row, Rows
from .telling import REASONS

Images = Mapping[str, npt.NDArray[np.uint8]]

SHOWN: Final = (BEST_SINGLE, "hybrid")
"""The ways of routing whose answers are shown side by side."""
GREY: Final = "#bbb"


def exploration_page(name: str, result: Result, prompts: Sequence[str], shown: Images) -> str:
    """The report as HTML; ``shown`` has the images of the first ``prompts`` by setting."""
    found = result.found
    return document(
        f"Exploration of {name}",
        [
            f"<h1>{html.escape(name)}</h1>",
            f"<p>{len(found.kept) + len(found.dropped)} settings were tried with {found.images} images, and "
            f"{len(found.kept)} kept. They were chosen by {html.escape(result.metric)} on {found.evidence.prompts} "
            f"prompts; all figures but those of dropped settings are of {result.reported.prompts} other prompts. "
            f"Compute is a share of the dearest setting that was tried ({1000 * result.dearest_s:.1f} ms).</p>",
            "<h2>Frontier</h2>",
            _frontier(result),
            _intervals(result),
            "<h2>Ways of routing at equal compute</h2>",
            _routing(result),
            "<h2>What each tier gets</h2>",
            _tiers(result),
            "<h2>Answers side by side at equal compute</h2>",
            *(_answers(result, budget, prompts, shown) for budget in BUDGETS),
            "<h2>What was kept</h2>",
            _kept(result),
            "<h2>What was dropped</h2>",
            _dropped(result),
        ],
    )


def _frontier(result: Result) -> str:
    known = result.reported
    singles = [
        (1000 * seconds, result.sign * float(values.mean()))
        for seconds, values in zip(known.seconds, known.values, strict=True)
    ]
    gone = [(1000 * one.seconds, result.sign * one.mean) for one in result.found.dropped]
    series = [
        Series("dropped settings, on the prompts that they had", gone, dots=True, colour=GREY),
        Series("kept settings alone", singles, dots=True),
        *(Series(system, _line(result, system)) for system in SYSTEMS),
    ]
    return chart("All settings and ways of routing", series, x_label="milliseconds a prompt", y_label=result.metric)


def _intervals(result: Result) -> str:
    series = [Series("hybrid", _line(result, "hybrid"))]
    series += [
        Series(f"{end} end of its 95 % interval", _line(result, "hybrid", place), colour=GREY)
        for place, end in ((1, "lower"), (2, "upper"))
    ]
    return chart("The frontier and its interval", series, x_label="milliseconds a prompt", y_label=result.metric)


def _line(result: Result, system: str, place: int = 0) -> list[tuple[float, float]]:
    return [
        (1000 * result.price(budget), result.interval(system, budget)[place])
        for budget in sorted(CURVE)
        if result.compared[system, budget].mixture.portions
    ]


def _routing(result: Result) -> str:
    rows = [
        [f"{budget:.0%}", system, result.value(system, budget), result.rows(system, budget)]
        for budget in BUDGETS
        for system in SYSTEMS
    ]
    return table(["compute", "routing", f"{result.metric} (95 % interval)", "rows"], rows)


def _tiers(result: Result) -> str:
    known = result.found.evidence
    rows = Rows(known)
    hull = Hull(rows, np.ones(len(rows.means), dtype=bool), result.found.scale.floor)
    corners = [rows.row(int(at)) for at in hull.corners]
    lines = [["low", "the cheapest variant", *_figures(result, Row(known.names[0], known.names[0]))]]
    lines += [["medium, auto", f"what the plan says, such as {row.text()}", *_figures(result, row)] for row in corners]
    if corners:
        lines.append(["high", f"the best row: {corners[-1].text()}", *_figures(result, corners[-1])])
    return table(["tier", "gets", "ms a prompt", result.metric], lines)


def _figures(result: Result, row: Row) -> list[str]:
    known = result.reported
    mean = row.outcome(known, np.ones(known.prompts)).mean()
    return [f"{1000 * row.seconds(known):.1f}", f"{result.sign * float(mean):.4f}"]


def _answers(result: Result, budget: float, prompts: Sequence[str], shown: Images) -> str:
    """The images with which the first prompts are answered, for each way of routing."""
    settings = [_settings(result, system, budget) for system in SHOWN]
    count = min([len(prompts), *(len(images) for images in shown.values())])
    rows = []
    for at in range(count):
        cells = [prompts[at]]
        for chosen in settings:
            cells.append(picture(shown[chosen[at]][at], f"{chosen[at]}: {prompts[at]}") if chosen else "refused")
        rows.append(cells)
    heads = [f"{system}: {result.rows(system, budget)}" for system in SHOWN]
    return f"<h3>{budget:.0%}</h3>{table(['prompt', *heads], rows, kind='samples')}"


def _settings(result: Result, system: str, budget: float) -> list[str]:
    """By prompt, the setting that most likely makes its answer; empty if prompts are refused."""
    known = result.reported
    portions = result.compared[system, budget].mixture.portions
    if not portions:
        return []
    _, row = max(portions, key=lambda portion: portion[0])
    if row.alone:
        return [row.light] * known.prompts
    heavy = known.escalated(known.names.index(row.light), row.direct, row.escalation, np.ones(known.prompts))
    return [row.heavy if share > 0.5 else row.light for share in heavy]


def _kept(result: Result) -> str:
    known = result.reported
    rows = [
        [name, f"{1000 * seconds:.1f}", f"{result.sign * float(values.mean()):.4f}", f"{result.found.kept[name]:.4f}"]
        for name, seconds, values in zip(known.names, known.seconds, known.values, strict=True)
    ]
    return table(["setting", "ms an image", result.metric, "loss of the frontier without it"], rows)


def _dropped(result: Result) -> str:
    rows = [
        [
            one.name,
            f"{1000 * one.seconds:.1f}",
            f"{result.sign * one.mean:.4f}",
            str(one.prompts),
            f"{REASONS[one.why]} (loss at most {one.loss:.4f})",
        ]
        for one in result.found.dropped
    ]
    return table(["setting", "ms an image", result.metric, "after prompts", "reason"], rows)
