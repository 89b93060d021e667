"""Charts of text: what they show of values, peaks and gaps; what `cascade top` draws of a router's view."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cascade_api.console import ConsoleView
from cascade_profiler.load.course import Course
from cascade_profiler.load.ledger import Ledger, Outcome, OutcomeKind
from cascade_profiler.report.terminal import bar, chart, sparkline
from cascade_profiler.watch import drawing


@pytest.mark.parametrize(
    ("values", "width", "top", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], 9, None, "▁▁▂▃▄▅▆▇█"),
        ([1, None, 1], 9, None, "█·█"),
        ([0, 0, 0, 9, 0, 0], 3, None, "▁█▁"),
        ([0.5], 9, 1.0, "▄"),
        ([], 9, None, ""),
        ([0, 0], 9, None, "▁▁"),
    ],
)
def test_a_line_keeps_peaks_and_gaps(values: list[float | None], width: int, top: float | None, line: str) -> None:
    assert sparkline(values, width=width, top=top) == line


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=300), st.integers(1, 80))
def test_a_line_is_never_too_wide(values: list[float | None], width: int) -> None:
    assert len(sparkline(values, width=width)) == min(len(values), width)


@given(st.floats(-1, 2), st.integers(1, 40))
def test_a_bar_has_its_width(share: float, width: int) -> None:
    assert len(bar(share, width=width)) == width


def test_a_chart_says_its_bounds() -> None:
    assert chart("latency", [1.0, float("inf"), 2.5], unit="s", width=9).endswith("1 to 2.5 s")
    assert chart("latency", [None], unit="s", width=9).endswith("no values")


def test_a_load_is_drawn_by_what_came_between_two_looks() -> None:
    ledger, course = Ledger(deadline_s=1.0), Course(every_s=2)
    assert course.lines() == []
    for second, (latency_s, route) in enumerate([(0.5, "light"), (2.0, "escalated"), (0.1, "direct")]):
        ledger.send(str(second), behind_s=0.0)
        ledger.settle(str(second), Outcome(OutcomeKind.ANSWERED, latency_s, route=route))
        course.note(ledger)
    course.note(ledger)
    answered, missed, slowest, heavy = course.lines()
    assert "███▁" in answered
    assert answered.endswith("0 to 1 in 2 s")
    assert "▁█▁▁" in missed
    assert slowest.endswith("0.1 to 2 s")
    assert "▁██·" in heavy


def test_top_shows_why_and_every_part_of_a_cascade(view: ConsoleView) -> None:
    text = _drawn(view)
    for part in (
        "team/portraits",
        "This is the first plan",
        "heavy and light on gpu",
        "gpu-0",
        "not trusted",
        "2.00 s",
    ):
        assert part in text
    assert "Redis is away" not in text
    assert "no cascade 'other'" in _drawn(view, wanted="other")
    assert "Redis is away" in _drawn(view.model_copy(update={"store_away": True}))


def _drawn(view: ConsoleView, *, wanted: str = "") -> str:
    console = Console(width=140, record=True, file=None)
    with console.capture() as captured:
        console.print(drawing.draw(view, wanted=wanted))
    return captured.get()


@pytest.fixture
def view() -> ConsoleView:
    row = {"share": 1, "chain": ["light", "heavy"], "direct": 0.2, "escalation": 0.25}
    decision = {"atMs": 1, "generation": 7, "reason": "InitialPlan", "why": "This is the first plan: all is new."}
    sample = {
        "atMs": 1, "demand": 9, "plannedDemand": 10, "latencyP99S": 2.0, "heavy": 0.4, "plannedHeavy": 0.4,
        "waiting": 3, "violations": 0, "quality": 0.9, "workers": 2,
    }  # fmt: skip
    cascade = {
        "name": "portraits", "cascade": "team/portraits", "routers": 1, "parked": False, "objectiveS": 4,
        "attainment": 0.99, "overload": "degrade", "demand": 9, "work": {"planned": 4.8, "allHeavy": 10},
        "expected": {"demand": 10, "latencyP99": 2.5, "quality": 0.93, "costPerHour": "8"}, "rows": [row],
        "sizes": ["512x512"],
        "variants": [{"name": "light", "steps": 4, "weights": "w", "share": 0.6}],
        "plannedShares": {"direct": 0.2, "escalated": 0.2, "light": 0.6}, "realisedShares": {"light": 1.0},
        "latencyP50S": 0.5, "latencyP99S": 2.0, "answered": 5, "degraded": 1, "refusals": {"QueueFull": 2},
        "violations": 3, "routes": {"light": 5}, "confidence": {"light": 0.5},
        "queues": [{"name": "heavy.gpu", "variants": ["heavy", "light"], "class": "gpu", "batch": 1, "imageS": 0.5,
                    "waiting": 3, "inFlight": 1}],
        "workers": [{"id": "gpu-0", "class": "gpu", "state": "ready", "trusted": False, "hosts": ["light"],
                     "credits": {"light": 4}, "inUse": {"light": 2}}],
        "decision": decision, "decisions": [decision], "samples": [sample, sample],
    }  # fmt: skip
    return ConsoleView.model_validate({"atMs": 1, "router": "r1", "storeAway": False, "cascades": [cascade]})
