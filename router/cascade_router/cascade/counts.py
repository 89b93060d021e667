"""What a router counts for the planner: images by planned row, to judge their quality, and requests by tier."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from cascade_api.plan import PlanRow, Tier
from cascade_api.reasons import Route
from cascade_api.report import MadeByRow

from ..tally import RECENT_LIMIT, RECENT_S

ROWS: Final = 16
"""Rows that are remembered; the one that was not used for longest is forgotten first."""

_Row = tuple[tuple[str, ...], float, float]


class MadeRows:
    """Counts by planned row since the router started."""

    def __init__(self) -> None:
        self._counts: dict[_Row, list[int]] = {}

    def note(self, row: PlanRow, route: Route) -> None:
        """Count an image that was made for a prompt that had drawn ``row``."""
        key = (row.chain, round(row.direct, 1), round(row.escalation, 1))
        counts = self._counts.pop(key, [0, 0, 0])
        counts[0] += 1
        counts[1] += route is Route.DIRECT
        counts[2] += route is Route.ESCALATED
        self._counts[key] = counts  # most recently used last
        if len(self._counts) > ROWS:
            del self._counts[next(iter(self._counts))]

    def told(self) -> list[MadeByRow]:
        """The counts in the form of a report."""
        return [
            MadeByRow(
                chain=chain,
                direct=direct,
                escalation=escalation,
                images=images,
                direct_images=by_direct,
                escalated_images=escalated,
            )
            for (chain, direct, escalation), (images, by_direct, escalated) in self._counts.items()
        ]


class RecentTiers:
    """The tiers of the requests of the last minute, up to a limit."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, Tier]] = deque(maxlen=RECENT_LIMIT)

    def note(self, tier: Tier, *, now: float) -> None:
        """Count a request that begins now."""
        self._recent.append((now, tier))

    def recent(self, *, now: float) -> Counter[Tier]:
        """Requests of the last minute by tier."""
        while self._recent and self._recent[0][0] < now - RECENT_S:
            self._recent.popleft()
        return Counter(tier for _, tier in self._recent)
