"""The product in a simulation: decisions, thresholds, dispatch and planning are its own; only time and servers are
simulated.

`passages` drives requests through the router's own machine, and in `control` the operator's planner decides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from cascade_api.cascade import DiffusionCascade
from cascade_api.chains import Variants
from cascade_api.plan import Plan, PlanRow
from cascade_api.reasons import Route
from cascade_api.report import QUANTILES, RouterReport
from cascade_api.settings import RouterSettings
from cascade_api.workers import Hosting
from cascade_operator.planning.planner import Planner
from cascade_router.cascade.effects import Answer
from cascade_router.cascade.state import Limits

from .cascades import cascade_of, with_switch_time
from .control import DEMAND_S, EPOCH, Control, RouterHooks, in_words
from .events import Events
from .outcomes import DrawnRow, Recorder, Way
from .passages import End, Passages, SimulatedPassage
from .pools import ROUTER
from .runs import PlanChange, Progress, Run, Scenario
from .scores import IMAGES_PER_PROMPT, scorer_of
from .shared_workers import SharedFleet, SharedWorker
from .timings import SimulatedTimings
from .turns import Turns
from .workers import WorkerJob

WARM_UP_S: Final = 30.0
"""Seconds before time zero in which the operator starts the replicas for the beginning of the trace."""
OPENING_S: Final = 5.0
"""The rate of the trace's first seconds, this many, is also the rate before the trace."""
LIMITS: Final = Limits(waiting=RouterSettings().queue_limit, in_hand=RouterSettings().request_limit)
"""The limits of a router with default settings."""
REPORT_EVERY_S: Final = 1.0
_NO_ROW: Final = DrawnRow((), 0.0, 0.0)


_WAYS: Final = {
    Route.LIGHT: Way.ACCEPTED,
    Route.DIRECT: Way.DIRECT,
    Route.ESCALATED: Way.ESCALATED,
    Route.DEGRADED: Way.DEGRADED,
}


class ProductionSystem:
    """One run of a policy of the product; runs with one profile may share a ``planner``, which prepares it once."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        policy: str,
        planner: Planner,
        scorer: str | None = None,
    ) -> None:
        self._scenario = scenario
        self._times_s: list[float] = scenario.trace.times_s.tolist()
        self._prompts: list[int] = (scenario.trace.prompts % scenario.scores.prompts).tolist()
        self._policy = policy
        self._rng = random.Random(scenario.seed)  # noqa: S311 (a simulation)
        self._events = Events(start_s=-WARM_UP_S)
        self._recorder = Recorder(scenario.objective_s, len(scenario.trace.times_s), self._events.stop)
        profile = with_switch_time(scenario.profile.profile, scenario.switch_s)
        cascade = cascade_of(
            scenario.profile,
            workers=scenario.workers,
            objective_s=scenario.objective_s,
            policy=policy,
            scorer=scorer,
            hosting=None if scenario.turns is None else Hosting.SHARED,
        )
        self._timings = SimulatedTimings(profile.spec, switch_s=None, rng=self._rng)
        self._fleet = self._workers(cascade)
        self._control = Control(
            events=self._events,
            fleet=self._fleet,
            timings=self._timings,
            cascade=cascade,
            profile=profile,
            planner=planner,
            rng=self._rng,
        )
        self._scorer = scorer_of(cascade.spec.hardness.scorer, scenario.scores)
        self._start = self._rng.random()
        self._passages: Passages | None = None
        """None until the first plan."""
        self._names = [str(number) for number in range(scenario.scores.prompts)]
        self._rows: dict[tuple[Variants, float, float], DrawnRow] = {}
        self._demand: dict[int, int] = {}
        self._report: RouterReport | None = None
        self._changes: list[PlanChange] = []
        self._at = 0
        self._loads_before = 0
        self._busy_before_s = 0.0

    def _workers(self, cascade: DiffusionCascade) -> SharedFleet:
        names = [(f"{c}-{i:04d}", c) for c, count in self._scenario.workers.items() for i in range(count)]
        timings = self._timings
        return SharedFleet(
            self._events,
            [SharedWorker(*name) for name in names],
            weights={variant.name: variant.weights.digest for variant in cascade.spec.variants},
            turns=self._scenario.turns or Turns.SHORT_FIRST,
            batch_s=timings.batch_s,
            image_s=lambda variant, on: timings.median_s(variant, on, 1, judged=False),
            largest=timings.largest_batch,
            done=self._done,
            loaded=self._loaded,
        )

    def run(self, progress: Progress) -> Run:
        """Play the trace to its end."""
        self._progress = progress
        router = RouterHooks(
            demand=self._demand,
            depths=lambda: self._passages.pools.depths() if self._passages else {},
            in_use=lambda worker: self._passages.pools.in_use(worker) if self._passages else {},
            report=self._reported,
            publish=self._follow,
            failed=self._failed,
        )
        self._recall_the_opening()
        self._control.start(router, failures=self._scenario.failures)
        self._events.at(0.0, self._begin)
        self._events.run()
        workers = self._fleet.workers.values()
        return Run(
            policy=self._policy,
            outcomes=self._recorder.outcomes(),
            switches=sum(worker.loads for worker in workers) - self._loads_before,
            gpu_seconds=sum(worker.busy_s for worker in workers) - self._busy_before_s,
            changes=tuple(self._changes),
            figures={"decisions": float(self._control.decisions)},
        )

    def _recall_the_opening(self) -> None:
        """Let the operator have seen arrivals before time zero, at the rate of the trace's beginning."""
        rate = float((self._scenario.trace.times_s < OPENING_S).sum()) / OPENING_S
        for second in range(int(WARM_UP_S)):
            count = int(rate * (second + 1)) - int(rate * second)
            if count:
                self._demand[int(EPOCH - WARM_UP_S) + second] = count

    def _begin(self, _: object) -> None:
        workers = self._fleet.workers.values()
        self._loads_before = sum(worker.loads for worker in workers)
        self._busy_before_s = sum(worker.busy_s for worker in workers)
        self._events.at(self._times_s[0], self._arrive)

    # --- the way of a request

    def _arrive(self, _: object) -> None:
        at, now = self._at, self._events.now
        self._at = at + 1
        if self._at < len(self._times_s):
            self._events.at(self._times_s[self._at], self._arrive)
        self._count(int(EPOCH + now))
        prompt, image = self._prompts[at], int(self._rng.random() * IMAGES_PER_PROMPT)
        if self._passages is None:
            self._recorder.record(
                arrival_s=now, end_s=now, way=Way.LOST, variant=None, row=_NO_ROW, planned=float("nan")
            )
            return
        self._passages.receive(text=self._names[prompt], prompt=prompt, images=[image], coins=[self._rng.random()])

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
        self._recorder.record(
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
                limits=LIMITS,
                start=self._start,
                confidence=self._scenario.scores.confidence,
                ended=self._ended,
            )
        if last is None or last.rows != plan.rows or (last.variants, last.workers) != (plan.variants, plan.workers):
            replicas = {pool.variant: len(pool.ready) for pool in plan.pools if pool.ready}
            share = sum(row.share * row.heavy_share for row in plan.rows)
            self._changes.append(PlanChange(self._events.now, in_words(plan), replicas, share))

    def _reported(self) -> RouterReport:
        """The routers' report for a decision, with progress and probes, which must go on even without requests."""
        self._progress(max(0.0, min(self._events.now / max(self._scenario.trace.span_s, 1e-9), 1.0)))
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
                hardness=state.chooser.hardness_quantiles(QUANTILES) if state else [],
                confidence=state.chooser.confidence_quantiles(QUANTILES) if state else {},
                batch_times=state.batch_times(now=self._events.now) if state else {},
            )
        return self._report

    def _done(self, _: SharedWorker, jobs: list[WorkerJob], seconds: float) -> None:
        if self._passages:
            self._passages.made(jobs, seconds)

    def _failed(self, _: SharedWorker, jobs: Sequence[WorkerJob]) -> None:
        if self._passages:
            self._passages.failed(jobs)

    def _loaded(self, worker: SharedWorker) -> None:
        self._control.loaded(worker)
