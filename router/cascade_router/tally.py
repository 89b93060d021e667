"""The counts of one cascade in one router, for the report to the planner (pure)."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from cascade_api.quantiles import nearest_rank
from cascade_api.reasons import Refusal, Route

RECENT_S: Final = 60.0
RECENT_LIMIT: Final = 20_000

BLAMELESS: Final = frozenset(
    {Refusal.INVALID, Refusal.UNKNOWN_MODEL, Refusal.CANCELLED, Refusal.DUPLICATE, Refusal.NOT_ALLOWED}
)
"""Refusals for which the client is responsible; they do not violate the objective."""


@dataclass(frozen=True, slots=True)
class _Answered:
    at: float
    route: Route
    latency_s: float


class Tally:
    """Counts since the start, and the answers of the last minute, up to a limit."""

    def __init__(self) -> None:
        self.received = 0
        self.routes = Counter[Route]()
        self.refusals = Counter[Refusal]()
        self.violations = 0
        self.latency_total_s = 0.0
        self._recent: deque[_Answered] = deque(maxlen=RECENT_LIMIT)

    def answered(self, route: Route, *, latency_s: float, late: bool, now: float) -> None:
        self.routes[route] += 1
        self.violations += late
        self.latency_total_s += latency_s
        self._recent.append(_Answered(now, route, latency_s))

    def refused(self, reason: Refusal) -> bool:
        """Count a refusal; returns whether it violates the objective."""
        self.refusals[reason] += 1
        violation = reason not in BLAMELESS
        self.violations += violation
        return violation

    def recent(self, *, now: float) -> tuple[Counter[Route], float | None, float | None]:
        """Answers of the last minute by route, and their median and 99 % latency in seconds (None without any)."""
        while self._recent and self._recent[0].at < now - RECENT_S:
            self._recent.popleft()
        latencies = sorted(answer.latency_s for answer in self._recent)
        routes = Counter(answer.route for answer in self._recent)
        return routes, nearest_rank(latencies, 0.5), nearest_rank(latencies, 0.99)
