"""What a router tells people about its cascades: the console in the browser and `cascade top` read it.

It is for all routers together, as far as Redis has their reports; only the past, `samples` and `decisions`, is what
this router has seen itself since it started.
"""

from __future__ import annotations

from pydantic import Field

from .plan import Expected, PlanPart, PlanRow, Share
from .reasons import Reason, Refusal, Route

SAMPLE_S = 5.0
"""Seconds between two samples."""
SAMPLES = 720
"""Most samples that are kept: those of an hour."""
DECISIONS = 100
"""Most decisions that are kept."""


class Sample(PlanPart):
    """A cascade at one moment; latencies and shares are those of the last minute's answers, None without any."""

    at_ms: int
    demand: float = Field(description="requests a second, over the last 10 s")
    planned_demand: float
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    heavy: Share | None = Field(default=None, description="realised share of the answers by the heavy variant")
    planned_heavy: Share
    waiting: int
    violations: int = Field(description="late answers and refusals since the last sample")
    quality: float = Field(description="as the plan expects it")
    workers: int


class Decision(PlanPart):
    """A plan that came into force; ``why`` says in words why it was made, and what it changed."""

    at_ms: int
    generation: int
    reason: Reason
    why: str


class VariantView(PlanPart):
    """A variant of the plan; ``share`` of all images that it is planned to make."""

    name: str
    steps: int
    guidance: str | None = None
    weights: str
    share: Share


class QueueView(PlanPart):
    """Where the requests of some variants wait for workers of one class."""

    name: str
    variants: list[str]
    accelerator_class: str = Field(alias="class")
    batch: int
    image_s: float
    waiting: int
    in_flight: int
    expected_wait_s: float | None = Field(default=None, description="None: nothing serves it now")


class WorkerView(PlanPart):
    """A worker: what it hosts, and how many requests of each variant it has now, of how many that it may have."""

    id: str
    accelerator_class: str = Field(alias="class")
    state: str
    trusted: bool = Field(description="whether this router sends it requests")
    hosts: list[str] = Field(description="variants whose weights are in its memory")
    credits: dict[str, int]
    in_use: dict[str, int]


class Work(PlanPart):
    """Accelerators that are busy all the time: with the plan at its demand, and if every image were heavy."""

    planned: float
    all_heavy: float


class CascadeView(PlanPart):
    """One cascade now, and what became of it in the last hour."""

    name: str = Field(description="its model name in the serving API")
    cascade: str
    routers: int
    parked: bool
    objective_s: float
    attainment: Share
    overload: str
    demand: float = Field(description="requests a second, over the last 10 s")
    expected: Expected
    work: Work
    rows: list[PlanRow]
    sizes: list[str] = Field(description="what clients may ask for, the default first")
    variants: list[VariantView]
    planned_shares: dict[str, Share] = Field(description="by route")
    realised_shares: dict[str, Share] = Field(description="by route, of the last minute's answers; empty without any")
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    answered: int = Field(description="since the routers started, like refusals and violations")
    degraded: int
    refusals: dict[Refusal, int]
    violations: int
    routes: dict[Route, int]
    confidence: dict[str, float] = Field(description="median of the light images, by variant")
    queues: list[QueueView]
    workers: list[WorkerView]
    decision: Decision = Field(description="the plan in force")
    decisions: list[Decision] = Field(description="those that changed something notable, the newest last")
    samples: list[Sample] = Field(description="the newest last")


class ConsoleView(PlanPart):
    """All cascades of a router. Where ``store_away``, Redis does not answer, and it is what this router knows alone."""

    at_ms: int
    router: str
    store_away: bool
    cascades: list[CascadeView]
