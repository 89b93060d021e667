"""The requests of one cascade in a simulation, and the router that has them in hand: decisions, thresholds and dispatch
are the product's own.

`passages` drives requests through the router's own machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cascade_api.cascade import DiffusionCascade
from cascade_api.chains import Variants
from cascade_api.plan import Plan, PlanRow
from cascade_api.profile import CascadeProfile
from cascade_api.reasons import Route
from cascade_api.report import QUANTILES, RouterReport
from cascade_router.cascade.effects import Answer
from cascade_router.cascade.state import Limits

from .control import DEMAND_S, EPOCH, RouterHooks, in_words
from .events import Events
from .outcomes import DrawnRow, Recorder, Way
from .passages import End, Passages, SimulatedPassage
from .pools import ROUTER
from .runs import PlanChange
from .scores import IMAGES_PER_PROMPT, Scores, scorer_of
from .shared_workers import SharedFleet
from .traces import Trace
from .workers import WorkerJob

OPENING_S: Final = 5.0
"""The rate of the trace's first seconds, this many, is also the rate before the trace."""
REPORT_EVERY_S: Final = 1.0
_NO_ROW: Final = DrawnRow((), 0.0, 0.0)


_WAYS: Final = {
    Route.LIGHT: Way.ACCEPTED,
    Route.DIRECT: Way.DIRECT,
    Route.ESCALATED: Way.ESCALATED,
    Route.DEGRADED: Way.DEGRADED,
}


@dataclass(frozen=True)
class Traffic:
    """A cascade with its profile, the requests that it gets, and the scores of their prompts and images."""

    cascade: DiffusionCascade
    profile: CascadeProfile
    trace: Trace
    scores: Scores
    sizes: Mapping[str, float] = field(default_factory=dict)
    """The parts of the requests by the size that they name; empty: none names one."""
    blind: bool = False
    """Whether the router takes every image for one of the default size."""

    def kind(self, variant: str) -> str:
        """The name of a variant among those of several cascades."""
        return f"{self.cascade.ref}/{variant}"


class SimulatedRouter:
    """The one router of a cascade.

    Args:
        progress: is called with the present time, also while there are no requests.
        finished: is called when the last request has ended.
    """

    def __init__(
        self,
        traffic: Traffic,
        *,
        events: Events,
        fleet: SharedFleet,
        rng: random.Random,
        limits: Limits,
        progress: Callable[[float], None],
        finished: Callable[[], None],
    ) -> None:
        self.traffic = traffic
        self._times_s: list[float] = traffic.trace.times_s.tolist()
        self._prompts: list[int] = (traffic.trace.prompts % traffic.scores.prompts).tolist()
        self._sizes = _drawn(traffic.sizes, count=len(self._times_s))
        self._rng = rng
        self._limits = limits
        self._events = events
        self._fleet = fleet
        self._progress = progress
        self.recorder = Recorder(traffic.cascade.spec.objective.latency_s, len(self._times_s), finished)
        self._scorer = scorer_of(traffic.cascade.spec.hardness.scorer, traffic.scores)
        self._start = rng.random()
        self._passages: Passages | None = None
        """None until the first plan."""
        self._names = [str(number) for number in range(traffic.scores.prompts)]
        self._rows: dict[tuple[Variants, float, float], DrawnRow] = {}
        self._demand: dict[int, int] = {}
        self._report: RouterReport | None = None
        self.changes: list[PlanChange] = []
        self.planned_work_s = 0.0
        """Accelerator-seconds that plans expected for the requests that came, each by the plan in force."""
        self._at = 0

    @property
    def hooks(self) -> RouterHooks:
        """What the operator sees of it."""
        return RouterHooks(
            demand=self._demand,
            depths=lambda: self._passages.pools.depths() if self._passages else {},
            in_use=lambda worker: self._passages.pools.in_use(worker) if self._passages else {},
            report=self._reported,
            publish=self._follow,
        )

    def recall_the_opening(self, before_s: float) -> None:
        """Let the operator have seen arrivals before time zero, at the rate of the trace's beginning."""
        rate = float((self.traffic.trace.times_s < OPENING_S).sum()) / OPENING_S
        for second in range(int(before_s)):
            count = int(rate * (second + 1)) - int(rate * second)
            if count:
                self._demand[int(EPOCH - before_s) + second] = count

    def begin(self) -> None:
        """Let the requests arrive."""
        self._events.at(self._times_s[0], self._arrive)

    def made(self, jobs: Sequence[WorkerJob], seconds: float) -> None:
        """A worker made the images of a batch, in ``seconds``."""
        if self._passages:
            self._passages.made(jobs, seconds)

    def failed(self, jobs: Sequence[WorkerJob]) -> None:
        """A worker lost what it had in hand."""
        if self._passages:
            self._passages.failed(jobs)

    # --- the way of a request

    def _arrive(self, _: object) -> None:
        at, now = self._at, self._events.now
        self._at = at + 1
        if self._at < len(self._times_s):
            self._events.at(self._times_s[self._at], self._arrive)
        self._count(int(EPOCH + now))
        prompt, image = self._prompts[at], int(self._rng.random() * IMAGES_PER_PROMPT)
        if self._passages is None:
            self.recorder.record(
                arrival_s=now, end_s=now, way=Way.LOST, variant=None, row=_NO_ROW, planned=float("nan")
            )
            return
        expected = self._passages.state.plan.expected
        self.planned_work_s += expected.work / expected.demand if expected.demand else 0.0
        self._passages.receive(
            text=self._names[prompt],
            prompt=prompt,
            images=[image],
            coins=[self._rng.random()],
            size=self._sizes[at],
        )

    def _count(self, second: int) -> None:
        """Count one arrival; seconds that the operator no longer looks at are forgotten."""
        if second in self._demand:
            self._demand[second] += 1
            return
        self._demand[second] = 1
        while next(iter(self._demand)) < second - DEMAND_S:
            del self._demand[next(iter(self._demand))]

    def _ended(self, passage: SimulatedPassage, end: End) -> None:
        way, variant = (_WAYS[end.route], end.variant) if isinstance(end, Answer) else (Way.LOST, None)
        self.recorder.record(
            arrival_s=passage.arrival_s,
            end_s=self._events.now,
            way=way,
            variant=variant,
            row=self._drawn(passage.machine.choice.row) if passage.begun else _NO_ROW,
            planned=passage.planned,
        )

    def _drawn(self, row: PlanRow) -> DrawnRow:
        key = (row.chain, row.direct, row.escalation)
        drawn = self._rows.get(key)
        if drawn is None:
            drawn = self._rows[key] = DrawnRow(*key)
        return drawn

    # --- plan and workers

    def _follow(self, plan: Plan) -> None:
        """Give a plan to the routers."""
        last = self._passages.state.plan if self._passages else None
        if self._passages:
            self._passages.follow(plan)
        else:
            self._passages = Passages(
                self._events,
                self._fleet,
                plan=plan,
                scorer=self._scorer,
                limits=self._limits,
                start=self._start,
                confidence=self.traffic.scores.confidence,
                ended=self._ended,
                kind=self.traffic.kind,
                blind=self.traffic.blind,
            )
        if last is None or last.rows != plan.rows or (last.variants, last.workers) != (plan.variants, plan.workers):
            replicas = {pool.variant: len(pool.ready) for pool in plan.pools if pool.ready}
            share = sum(row.share * row.heavy_share for row in plan.rows)
            self.changes.append(PlanChange(self._events.now, in_words(plan), replicas, share))

    def _reported(self) -> RouterReport:
        """The routers' report for a decision, with progress and probes, which must go on even without requests."""
        self._progress(self._events.now)
        now_ms = int((EPOCH + self._events.now) * 1000)
        if self._report is None or now_ms - self._report.at_ms >= REPORT_EVERY_S * 1000:
            state = None
            if self._passages:
                self._passages.probe()
                state = self._passages.state
            self._report = RouterReport(
                router=ROUTER,
                at_ms=now_ms,
                plan_generation=state.plan.generation if state else 0,
                received=self._at,
                waiting=state.waiting if state else 0,
                hardness=state.chooser.hardness_quantiles(QUANTILES) if state else [],
                confidence=state.chooser.confidence_quantiles(QUANTILES) if state else {},
                batch_times=state.batch_times(now=self._events.now) if state else {},
                made=state.made_rows.told() if state else [],
                recent_tiers=dict(state.tiers.recent(now=self._events.now)) if state else {},
                arrived=state.arrived.counts(now=self._events.now) if state else {},
            )
        return self._report


def _drawn(sizes: Mapping[str, float], *, count: int) -> list[str]:
    """The size of each of ``count`` requests, the same in every run of the same parts; empty: the default."""
    if not sizes:
        return [""] * count
    return random.Random(count).choices(list(sizes), list(sizes.values()), k=count)  # noqa: S311 (a simulation)
