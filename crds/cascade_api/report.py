"""The report that each router writes into Redis, for the planner and for `cascade status`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from .plan import PlanPart, Tier
from .quantities import Size
from .reasons import Refusal, Route

DEMAND_WINDOW_S = 10
"""Seconds over which arrivals are averaged for people."""
QUANTILES = 21
"""Number of quantiles by which scores are reported: 0 %, 5 %, …, 100 %."""


Count = Annotated[int, Field(ge=0, le=2**53)]
Latency = Annotated[float, Field(ge=0, le=1e9)]
Score = Annotated[float, Field(ge=-1e9, le=1e9)]


class BatchTime(PlanPart):
    """The number of images of a batch, and how long the worker took to make and, if requested, judge them."""

    images: Annotated[int, Field(ge=1, le=4096)]
    seconds: Annotated[float, Field(ge=1e-6, le=1e6)]


class MadeByRow(PlanPart):
    """How many images a router made of a planned row since it started, and which of them the heavy variant made.

    Rows that differ by less than a tenth in their shares are one. Requests that chose their variant are left out.
    """

    chain: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    direct: Annotated[float, Field(ge=0, le=1)]
    escalation: Annotated[float, Field(ge=0, le=1)]
    images: Count
    direct_images: Count = 0
    escalated_images: Count = 0

    @property
    def row(self) -> tuple[tuple[str, ...], float, float]:
        return self.chain, self.direct, self.escalation

    def since(self, before: MadeByRow | None) -> MadeByRow:
        """What was made since an earlier count; all of it if there is none, or if it is of an earlier router."""
        if before is None or before.images > self.images:
            return self
        return self.model_copy(
            update={
                "images": self.images - before.images,
                "direct_images": max(self.direct_images - before.direct_images, 0),
                "escalated_images": max(self.escalated_images - before.escalated_images, 0),
            }
        )


class RouterReport(PlanPart):
    """One router's report about one cascade; it is written about every second, with a TTL of a few seconds."""

    router: str
    at_ms: int
    plan_generation: Count
    received: Count = Field(description="valid requests since the router started")
    routes: dict[Route, Count] = Field(default_factory=dict, description="answers since the router started")
    refusals: dict[Refusal, Count] = Field(default_factory=dict, description="refusals since the router started")
    waiting: Count = Field(default=0, description="requests that wait until a worker comes, and are in no queue")
    violations: Count = Field(default=0, description="answers later than their deadline, and refusals")
    recent_routes: dict[Route, Count] = Field(default_factory=dict, description="answers of the last 60 s")
    recent_tiers: dict[Tier, Count] = Field(default_factory=dict, description="requests of the last 60 s by tier")
    recent_window_s: Latency = 60.0
    latency_p50_s: Latency | None = Field(default=None, description="over the last 60 s")
    latency_p99_s: Latency | None = Field(default=None, description="over the last 60 s")
    hardness: list[Score] = Field(default_factory=list, description="QUANTILES points, or empty")
    confidence: dict[str, list[Score]] = Field(default_factory=dict, description="by light variant")
    batch_times: dict[str, BatchTime] = Field(
        default_factory=dict,
        description="by pool: of the latest batches, the one with the median ratio of measured to planned time",
    )
    made: Annotated[list[MadeByRow], Field(max_length=64)] = Field(default_factory=list, description="by planned row")
    arrived: dict[Size, Latency] = Field(
        default_factory=dict, description="requests by size; one of t seconds ago counts as exp(-t/300)"
    )
    store_away: bool = False


def demand_per_s(counts: Iterable[tuple[int, int]], *, now: float) -> float:
    """Mean arrivals per second over the last whole seconds; ``counts`` are those of single Unix seconds."""
    last = int(now) - 1
    return sum(count for second, count in counts if last - DEMAND_WINDOW_S < second <= last) / DEMAND_WINDOW_S


def realised_shares(reports: Iterable[RouterReport]) -> dict[str, float]:
    """Shares of the last minute's answers by route; degraded ones count as light. Empty if there were no answers."""
    counts = {"direct": 0, "escalated": 0, "light": 0}
    for report in reports:
        for route, count in report.recent_routes.items():
            counts["light" if route.value in ("light", "degraded") else route.value] += count
    total = sum(counts.values())
    return {route: count / total for route, count in counts.items()} if total else {}
