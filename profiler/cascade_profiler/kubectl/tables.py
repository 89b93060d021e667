"""What `kubectl cascade` prints of several cascades."""

from __future__ import annotations

from collections.abc import Sequence

from cascade_api.console import CascadeView
from cascade_api.reasons import ConditionType
from cascade_api.status import CascadeStatus


def statuses(rows: Sequence[tuple[str, CascadeStatus | None, CascadeView | None]]) -> str:
    """A line for each cascade, below headings; what no router or operator has told is left open."""
    lines = [("CASCADE", "READY", "REASON", "REQUESTS/S", "P99", "OBJECTIVE", "HEAVY", "WORKERS", "COST/H")]
    for name, status, view in rows:
        ready = status.condition(ConditionType.READY) if status is not None else None
        told = ("Unknown", "–") if ready is None else (ready.status, str(ready.reason))
        lines.append((name, *told, *(_now(view) if view is not None else ("–",) * 6)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _now(view: CascadeView) -> tuple[str, str, str, str, str, str]:
    realised = view.realised_shares
    return (
        f"{view.demand:.1f}",
        "–" if view.latency_p99_s is None else f"{view.latency_p99_s:.2f} s",
        f"{view.objective_s:g} s",
        f"{realised['direct'] + realised['escalated']:.0%}" if realised else "–",
        str(len(view.workers)),
        view.expected.cost_per_hour,
    )
