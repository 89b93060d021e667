"""The product in a simulation: its own decisions, thresholds, dispatch and planning; only time and servers are made up.

A request goes the way that `cascade_router.engine` takes it, decision by decision; what waits there for an answer
waits here for an event.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from cascade_api.plan import Plan, PlanRow
from cascade_api.reasons import Refusal
from cascade_api.report import QUANTILES, RouterReport
from cascade_operator.planning.planner import Planner
from cascade_operator.snapshot import Mobility
from cascade_router.cascade.choosing import Choice, Chooser
from cascade_router.cascade.decisions import (
    Accept,
    Make,
    Overload,
    admit,
    after_light,
    instead,
    may_turn,
    on_failure,
)
from cascade_router.cascade.retries import RetryBudget
from cascade_router.queue.operations import Release

from .cascades import cascade_of, with_switch_time
from .control import DEMAND_S, EPOCH, Control, Router, in_words
from .events import Events
from .outcomes import DrawnRow, Recorder, Way
from .pools import QUEUE_LIMIT, ROUTER, Place, Pools
from .runs import PlanChange, Progress, Run, Scenario
from .scores import IMAGES_PER_PROMPT, scorer_of
from .timings import Timings
from .workers import Fleet, Job, Worker

WARM_UP_S: Final = 30.0
"""Before time zero, in which the operator brings up what the trace's opening needs."""
OPENING_S: Final = 5.0
"""Of the trace, whose rate was there before it."""
ANSWER_MARGIN_S: Final = 0.01
"""Kept back before the deadline to answer with a light image when the heavy one does not come."""
REPORT_EVERY_S: Final = 1.0
_NO_ROW: Final = DrawnRow("", "", 0.0, 0.0)


class _Request(Place):
    __slots__ = (
        "arrival_s",
        "attempts",
        "choice",
        "deadline_s",
        "image",
        "job",
        "light_variant",
        "planned",
        "prompt",
        "turned",
    )

    choice: Choice
    job: Job

    def __init__(self, *, arrival_s: float, deadline_s: float, prompt: int, image: int, planned: float) -> None:
        super().__init__()
        self.arrival_s = arrival_s
        self.deadline_s = deadline_s
        self.prompt = prompt
        self.image = image
        self.planned = planned
        self.light_variant: str | None = None
        """Who made the light image at hand."""
        self.attempts = 0
        self.turned = False
        """From the first model to the other."""


class ProductionSystem:
    """One run of a policy of the product; runs of one profile may share a ``planner``, which then prepares it once."""

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
        )
        in_place = scenario.mobility is Mobility.IN_PLACE
        self._timings = Timings(profile.spec, switch_s=None, rng=self._rng, in_place=in_place)
        workers = [Worker(f"{c}-{i:04d}", c) for c, count in scenario.workers.items() for i in range(count)]
        self._fleet = Fleet(
            self._events, workers, batch_s=self._timings.batch_s, take=self._take, done=self._done, loaded=self._loaded
        )
        self._control = Control(
            events=self._events,
            fleet=self._fleet,
            timings=self._timings,
            cascade=cascade,
            profile=profile,
            planner=planner,
            mobility=scenario.mobility,
            rng=self._rng,
        )
        self._pools: Pools[_Request] = Pools(self._events, granted=self._granted, refused=self._not_granted)
        self._chooser = Chooser(
            scorer=scorer_of(cascade.spec.hardness.scorer, scenario.scores), start=self._rng.random()
        )
        self._retries = RetryBudget()
        self._largest: dict[tuple[str, str], int] = {}
        self._plan: Plan | None = None
        self._names = [str(number) for number in range(scenario.scores.prompts)]
        self._rows: dict[tuple[str, str, float, float], DrawnRow] = {}
        self._hopeful: list[_Request] = []
        """Requests that wait for a replica that is expected."""
        self._demand: dict[int, int] = {}
        self._report: RouterReport | None = None
        self._changes: list[PlanChange] = []
        self._at = 0
        self._loads_before = 0
        self._busy_before_s = 0.0

    def run(self, progress: Progress) -> Run:
        """Play the trace to its end."""
        self._progress = progress
        router = Router(
            demand=self._demand,
            depths=self._pools.depths,
            in_use=self._pools.in_use,
            report=self._reported,
            publish=self._follow,
            failed=self._worker_failed,
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
        """Before time zero the operator has seen arrivals at the rate that the trace opens with."""
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
        plan = self._plan
        prompt = self._prompts[at]
        request = _Request(
            arrival_s=now,
            deadline_s=now + self._scenario.objective_s,
            prompt=prompt,
            image=int(self._rng.random() * IMAGES_PER_PROMPT),
            planned=plan.expected.quality if plan else float("nan"),
        )
        if plan is None:
            self._recorder.record(
                arrival_s=now, end_s=now, way=Way.LOST, variant=None, row=_NO_ROW, planned=request.planned
            )
            return
        request.choice = self._chooser.choose(plan, self._names[prompt], coin=self._rng.random())
        self._retries.earn()
        self._admit(request)

    def _count(self, second: int) -> None:
        """One arrival; seconds that the operator no longer looks at are forgotten."""
        if second in self._demand:
            self._demand[second] += 1
            return
        self._demand[second] = 1
        while next(iter(self._demand)) < second - DEMAND_S:
            del self._demand[next(iter(self._demand))]

    def _admit(self, request: _Request) -> None:
        row = request.choice.row
        step = admit(
            direct=request.choice.direct,
            light=self._pools.outlooks(row.light),
            heavy=self._pools.outlooks(row.heavy),
            deadline=request.deadline_s,
            now=self._events.now,
            overload=self._overload,
            queue_limit=QUEUE_LIMIT,
            escalates=row.escalation > 0,
        )
        if isinstance(step, Make):
            self._pools.enter(request, step)
        elif step.reason is Refusal.NO_REPLICA:
            self._hope(request, row.heavy if request.choice.direct else row.light)
        else:
            self._end(request, Way.LOST, None)

    def _not_granted(self, request: _Request) -> None:
        """The pool will not begin in time, or at all."""
        if request.light_variant is not None:
            self._end(request, *self._fall_back(request))
        elif not self._turn(request, Refusal.DEADLINE_EXCEEDED):
            self._end(request, Way.LOST, None)

    def _fall_back(self, request: _Request) -> tuple[Way, str | None]:
        return (Way.DEGRADED, request.light_variant) if self._overload == "degrade" else (Way.LOST, None)

    def _turn(self, request: _Request, reason: Refusal) -> bool:
        """The first model makes no image: whether the other one may still make it in time."""
        step, row = request.step, request.choice.row
        if request.turned or not may_turn(step.stage, reason, overload=self._overload):
            return False
        other = instead(
            step.stage,
            others=self._pools.outlooks(row.heavy if step.stage == "light" else row.light),
            deadline=request.deadline_s,
            now=self._events.now,
            overload=self._overload,
            queue_limit=QUEUE_LIMIT,
        )
        if other is None:
            return False
        request.turned, request.attempts = True, 0
        self._pools.enter(request, other)
        return True

    def _granted(self, request: _Request) -> None:
        worker = self._fleet.workers[request.replica_id]
        if request.replica_id in self._pools.health.ejected:
            self._pools.leave(self._pools.release(request, service_s=None, failed=True))
            self._try_another(request)
            return
        request.attempts += 1
        request.job = Job(request, judged=request.step.stage == "light")
        if not worker.ready:
            self._replica_failed(request, worker)
            return
        limit_s = request.deadline_s
        if request.light_variant is not None and self._overload == "degrade":
            limit_s -= ANSWER_MARGIN_S
        self._events.at(limit_s, self._out_of_time, (request, request.ticket))
        self._fleet.submit(worker, request.job)

    def _out_of_time(self, subject: tuple[_Request, str]) -> None:
        """The deadline has come while a server works on a request: it is cancelled there."""
        request, ticket = subject
        if request.ticket != ticket:
            return
        worker = self._fleet.workers[request.replica_id]
        if request.job not in worker.running and request.job not in worker.waiting:
            return
        self._fleet.cancel(worker, request.job)
        self._pools.leave(self._pools.release(request, service_s=None))
        if request.light_variant is not None:
            self._end(request, *self._fall_back(request))
        else:
            self._end(request, Way.LOST, None)

    def _done(self, worker: Worker, jobs: list[Job], _: float) -> None:
        self._pools.health.succeeded(worker.id)
        variant = worker.variant or ""
        for job in jobs:
            request: _Request = job.request
            service_s = self._events.now - request.granted_s
            self._pools.estimates.observe(request.step.pool, service_s)
            release = self._pools.release(request, service_s=service_s)
            if request.step.stage == "light":
                self._judge(request, variant, release)
            else:
                way = Way.DIRECT if request.light_variant is None else Way.ESCALATED
                self._end(request, way, variant)
                self._pools.leave(release)

    def _judge(self, request: _Request, variant: str, release: Release) -> None:
        """What becomes of a light image."""
        request.light_variant = variant
        if request.step.degraded:
            self._end(request, Way.DEGRADED, variant)
            self._pools.leave(release)
            return
        row = request.choice.row
        confidence = self._scenario.scores.confidence[variant][request.prompt][request.image]
        escalate = self._chooser.escalates(row, confidence)
        step = after_light(
            escalate=escalate,
            heavy=self._pools.outlooks(row.heavy) if escalate else (),
            deadline=request.deadline_s,
            now=self._events.now,
            overload=self._overload,
            queue_limit=QUEUE_LIMIT,
        )
        if isinstance(step, Make):
            request.attempts = 0
            self._pools.enter(request, step, leaving=release)
            return
        if isinstance(step, Accept):
            self._end(request, Way.DEGRADED if step.degraded else Way.ACCEPTED, variant)
        else:
            self._end(request, Way.LOST, None)
        self._pools.leave(release)

    def _end(self, request: _Request, way: Way, variant: str | None) -> None:
        request.ticket = ""
        row = request.choice.row
        self._recorder.record(
            arrival_s=request.arrival_s,
            end_s=self._events.now,
            way=way,
            variant=variant,
            row=self._drawn(row),
            planned=request.planned,
        )

    def _drawn(self, row: PlanRow) -> DrawnRow:
        key = (row.light, row.heavy, row.direct, row.escalation)
        drawn = self._rows.get(key)
        if drawn is None:
            drawn = self._rows[key] = DrawnRow(*key)
        return drawn

    # --- failing replicas

    def _worker_failed(self, worker: Worker, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._replica_failed(job.request, worker)

    def _replica_failed(self, request: _Request, worker: Worker) -> None:
        self._pools.health.failed(worker.id, now=self._events.now)
        self._retries.spend()
        self._pools.leave(self._pools.release(request, service_s=None, failed=True))
        self._try_another(request)

    def _try_another(self, request: _Request) -> None:
        step = on_failure(
            stage=request.step.stage,
            attempts=request.attempts,
            outlooks=self._pools.outlooks(request.step.variant),
            deadline=request.deadline_s,
            now=self._events.now,
            retry_budget=self._retries.left,
        )
        if isinstance(step, Make):
            self._pools.enter(
                request, Make(step.stage, step.pool, step.variant, step.start_by, degraded=request.step.degraded)
            )
        elif request.light_variant is None and self._turn(request, step.reason):
            return
        elif step.reason is Refusal.NO_REPLICA and request.light_variant is None:
            self._hope(request, request.step.variant)
        else:
            self._not_granted(request)

    def _hope(self, request: _Request, variant: str) -> None:
        """Wait for a change of plan while a replica is expected; give up where waiting is pointless."""
        execution_s = min((outlook.execution_s for outlook in self._pools.outlooks(variant)), default=0.0)
        give_up_s = request.deadline_s - execution_s
        plan = self._plan
        expected = plan is not None and any(pool.replicas for pool in plan.pools_of(variant))
        if give_up_s <= self._events.now or not expected:
            self._end(request, Way.LOST, None)
            return
        self._hopeful.append(request)
        self._events.at(give_up_s, self._give_up, request)

    def _give_up(self, request: _Request) -> None:
        if request in self._hopeful:
            self._hopeful.remove(request)
            self._end(request, Way.LOST, None)

    # --- plan, pools, workers

    @property
    def _overload(self) -> Overload:
        return self._plan.overload if self._plan is not None else "degrade"

    def _follow(self, plan: Plan) -> None:
        """Routers hear of a plan."""
        last, self._plan = self._plan, plan
        self._pools.follow(plan)
        hopeful, self._hopeful = self._hopeful, []
        for request in hopeful:
            self._admit(request)
        if last is None or last.rows != plan.rows or last.pools != plan.pools:
            replicas = {pool.variant: len(pool.ready) for pool in plan.pools if pool.ready}
            share = sum(row.share * row.heavy_share for row in plan.rows)
            self._changes.append(PlanChange(self._events.now, in_words(plan), replicas, share))

    def _reported(self) -> RouterReport:
        """What routers report before a decision, the one thing that happens however few requests there are."""
        self._progress(max(0.0, min(self._events.now / max(self._scenario.trace.span_s, 1e-9), 1.0)))
        now_ms = int((EPOCH + self._events.now) * 1000)
        if self._report is None or now_ms - self._report.at_ms >= REPORT_EVERY_S * 1000:
            for replica_id in self._pools.health.due(now=self._events.now):
                if self._fleet.workers[replica_id].ready:
                    self._pools.health.succeeded(replica_id)
                else:
                    self._pools.health.failed(replica_id, now=self._events.now)
            self._report = RouterReport(
                router=ROUTER,
                at_ms=now_ms,
                plan_generation=self._plan.generation if self._plan else 0,
                received=self._at,
                hardness=self._chooser.hardness_quantiles(QUANTILES),
                confidence=self._chooser.confidence_quantiles(QUANTILES),
            )
        return self._report

    def _loaded(self, worker: Worker) -> None:
        self._control.loaded(worker)

    def _take(self, worker: Worker) -> list[Job]:
        """What Triton's dynamic batcher makes of its queue: all of it, up to the largest batch."""
        key = (worker.variant or "", worker.accelerator_class)
        largest = self._largest.get(key)
        if largest is None:
            largest = self._largest[key] = self._timings.largest_batch(*key)
        waiting = worker.waiting
        return [waiting.popleft() for _ in range(min(largest, len(waiting)))]
