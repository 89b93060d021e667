"""How a load went from second to second, as charts for a terminal. Pure."""

from __future__ import annotations

from itertools import islice

from ..report.terminal import chart
from .ledger import Ledger, OutcomeKind

CHART_WIDTH = 60


class Course:
    """Takes notes of a ledger every ``every_s`` seconds, and draws what came between two notes."""

    def __init__(self, *, every_s: float) -> None:
        self._every_s = every_s
        self._settled = 0
        self._answered: list[float] = []
        self._missed: list[float] = []
        self._slowest_s: list[float | None] = []
        self._heavy: list[float | None] = []

    def note(self, ledger: Ledger) -> None:
        """Note what was settled since the last note."""
        new = list(islice(ledger.outcomes.values(), self._settled, None))
        self._settled += len(new)
        answered = [outcome for outcome in new if outcome.kind is OutcomeKind.ANSWERED]
        heavy = sum(outcome.route in ("direct", "escalated") for outcome in answered)
        self._answered.append(len(answered))
        self._missed.append(sum(map(ledger.violates, new)))
        self._slowest_s.append(max((outcome.latency_s for outcome in answered), default=None))
        self._heavy.append(heavy / len(answered) if answered else None)

    def lines(self) -> list[str]:
        """The charts; none if there are fewer than two notes."""
        if len(self._answered) < 2:
            return []
        return [
            chart("answered", self._answered, unit=f"in {self._every_s:g} s", width=CHART_WIDTH),
            chart("late or refused", self._missed, unit=f"in {self._every_s:g} s", width=CHART_WIDTH),
            chart("slowest", self._slowest_s, unit="s", width=CHART_WIDTH),
            chart("heavy share", self._heavy, unit="", width=CHART_WIDTH, top=1.0),
        ]
