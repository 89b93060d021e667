"""Draws what a router tells as lines and tables for a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cascade_api.console import CascadeView, ConsoleView, WorkerView
from cascade_api.explanations import floor_words, latency_words

from ..report.terminal import bar, chart

CHART_WIDTH = 48
BAR_WIDTH = 20
WORKERS_SHOWN = 16
DECISIONS_SHOWN = 6


def draw(view: ConsoleView, *, wanted: str = "") -> RenderableType:
    """All cascades, or the one whose name is wanted."""
    cascades = [cascade for cascade in view.cascades if wanted in ("", cascade.name, cascade.cascade)]
    if not cascades:
        names = ", ".join(cascade.name for cascade in view.cascades)
        return Text(f"no cascade {wanted!r} here; there is: {names}" if wanted else "no cascade is served yet")
    head = Text(f"router {view.router}, {_clock(view.at_ms)}", style="dim")
    if view.store_away:
        head.append("  Redis is away: this is what the router knows alone", style="bold red")
    return Group(head, *map(_cascade, cascades))


def _cascade(cascade: CascadeView) -> RenderableType:
    parts: list[RenderableType] = [
        Text(cascade.decision.why),
        _figures(cascade),
        _charts(cascade),
        _shares(cascade),
        _queues(cascade),
        _workers(cascade.workers),
    ]
    if cascade.decisions:
        parts.append(_decisions(cascade))
    title = f"{cascade.cascade}  plan {cascade.decision.generation} ({cascade.decision.reason})"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED)


def _figures(cascade: CascadeView) -> RenderableType:
    late = cascade.latency_p99_s is not None and cascade.latency_p99_s > cascade.objective_s
    expected, work = cascade.expected, cascade.work
    table = _table("", "now", "planned")
    table.add_row("requests a second", f"{cascade.demand:.1f}", f"{expected.demand:.1f}")
    table.add_row(
        "latency p50, p99",
        Text(f"{_seconds(cascade.latency_p50_s)}, {_seconds(cascade.latency_p99_s)}", style="bold red" if late else ""),
        f"{latency_words(expected)}, of {cascade.objective_s:g} s",
    )
    confidence = ", ".join(f"{name} {value:.2f}" for name, value in cascade.confidence.items())
    table.add_row(
        "quality", f"confidence {confidence}" if confidence else "–", f"{expected.quality:.4g}{floor_words(expected)}"
    )
    table.add_row("accelerators' work", "", f"{work.planned:.2f} busy; {work.all_heavy:.2f} if all images were heavy")
    table.add_row("cost an hour", "", expected.cost_per_hour)
    refused = ", ".join(f"{count} {reason}" for reason, count in cascade.refusals.items()) or "none"
    table.add_row("answered", f"{cascade.answered}, {cascade.degraded} degraded", f"refused: {refused}")
    table.add_row("late or refused", Text(str(cascade.violations), style="red" if cascade.violations else ""), "")
    return table


def _charts(cascade: CascadeView) -> RenderableType:
    samples = cascade.samples
    lines = [
        chart("requests a second", [s.demand for s in samples], unit="/s", width=CHART_WIDTH),
        chart("latency p99", [s.latency_p99_s for s in samples], unit="s", width=CHART_WIDTH),
        chart("heavy share", [s.heavy for s in samples], unit="", width=CHART_WIDTH, top=1.0),
        chart("waiting", [s.waiting for s in samples], unit="", width=CHART_WIDTH),
    ]
    return Text("\n".join(lines), no_wrap=True)


def _shares(cascade: CascadeView) -> RenderableType:
    table = _table("share", "planned", "realised", "")
    for route, planned in cascade.planned_shares.items():
        realised = cascade.realised_shares.get(route)
        told = "–" if realised is None else f"{realised:.0%}"
        table.add_row(route, f"{planned:.0%}", told, bar(planned if realised is None else realised, width=BAR_WIDTH))
    return table


def _queues(cascade: CascadeView) -> RenderableType:
    table = _table("queue", "waiting", "in flight", "wait", "seconds an image", "batch")
    for queue in cascade.queues:
        wait = "nothing serves it" if queue.expected_wait_s is None else f"{queue.expected_wait_s:.2f} s"
        name = f"{' and '.join(queue.variants)} on {queue.accelerator_class}"
        table.add_row(name, str(queue.waiting), str(queue.in_flight), wait, f"{queue.image_s:.3g}", str(queue.batch))
    return table


def _workers(workers: Sequence[WorkerView]) -> RenderableType:
    table = _table("worker", "class", "state", "hosts", "in use")
    for worker in workers[:WORKERS_SHOWN]:
        state = worker.state if worker.trusted else f"{worker.state}, not trusted"
        used = ", ".join(f"{name} {count} of {worker.credits.get(name, 0)}" for name, count in worker.in_use.items())
        style = "" if worker.trusted and worker.state == "ready" else "yellow"
        hosts = " and ".join(worker.hosts) or "nothing"
        table.add_row(worker.id, worker.accelerator_class, Text(state, style=style), hosts, used or "–")
    if len(workers) > WORKERS_SHOWN:
        table.add_row(f"and {len(workers) - WORKERS_SHOWN} more")
    return table


def _decisions(cascade: CascadeView) -> RenderableType:
    lines = [f"{_clock(each.at_ms)}  {each.why}" for each in reversed(cascade.decisions[-DECISIONS_SHOWN:])]
    return Text("\n".join(["decisions, the newest first", *lines]), style="dim")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    return table


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))
