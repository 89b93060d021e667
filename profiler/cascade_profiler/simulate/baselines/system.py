"""The runtime of the published systems: a queue for each worker, arrivals spread at random, silent drops, and a
controller that measures once a second.

The client chooses any worker of the first level. This worker at once forwards a hard prompt to any worker of the next
level, runs batches from its queue, and sends images that its discriminator rejects to any worker of the next level. A
worker that gets another model keeps its queue. Demand is the number of queries in the system, where a dropped query
still counts for twice the objective. Nothing notices a failed worker: its queries, and those that it is sent, are lost.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from typing import Final

from ..events import Events
from ..outcomes import DrawnRow, Recorder, Way
from ..runs import Failure, PlanChange, Progress, Run, Scenario
from ..timings import SimulatedTimings
from ..workers import Fleet, Worker, WorkerJob
from .planners import PublishedPlanner, PublishedTimes, Signals, SolvedPlan

WINDOW: Final = 20
"""Number of samples, one a second, that are smoothed."""
SOLVE_EVERY: Final = 5
"""Seconds between two plans."""
QUEUE_MARGIN: Final = 1.2
PHANTOM_OBJECTIVES: Final = 2.0


class _Request:
    __slots__ = ("arrival_s", "has_light", "number", "planned", "prompt", "row")

    def __init__(self, number: int, arrival_s: float, prompt: int, row: DrawnRow, planned: float) -> None:
        self.number = number
        self.arrival_s = arrival_s
        self.prompt = prompt
        self.row = row
        self.planned = planned
        self.has_light = False


class PublishedSystem:
    """One run of a published system."""

    def __init__(self, scenario: Scenario, planner: PublishedPlanner, times: PublishedTimes) -> None:
        self._scenario = scenario
        self._planner = planner
        self._times = times
        self._rng = random.Random(scenario.seed)  # noqa: S311 (a simulation)
        self._events = Events()
        self._recorder = Recorder(scenario.objective_s, len(scenario.trace.times_s), self._events.stop)
        self._timings = SimulatedTimings(scenario.profile.profile.spec, switch_s=scenario.switch_s, rng=self._rng)
        names = [f"{c}-{i:03d}" for c, count in scenario.workers.items() for i in range(count)]
        workers = [Worker(name, name.rpartition("-")[0]) for name in names]
        self._order = workers
        self._fleet = Fleet(
            self._events, workers, batch_s=self._batch_s, take=self._take, done=self._done, loaded=self._loaded
        )
        self._level: dict[str, int] = dict.fromkeys(names, 0)
        """The level of each worker; it changes when the batch that runs at a new plan is done."""
        self._table: list[list[Worker]] = [[]]
        """Workers by level, as clients and workers know them."""
        self._in_system = 0
        self._samples: dict[str, deque[float]] = {}
        self._forwarded = 0
        self._changes: list[PlanChange] = []
        self._at = 0
        self._plan: SolvedPlan = planner.start()

    def run(self, progress: Progress) -> Run:
        """Play the trace to its end."""
        trace = self._scenario.trace
        self._apply(self._plan)
        loads = {worker.id: worker.loads for worker in self._order}
        for failure in self._scenario.failures:
            self._events.at(failure.at_s, self._fail, failure)
        self._events.at(float(trace.times_s[0]), self._arrive)
        self._events.at(1.0, self._second, 1)
        self._progress = progress
        self._events.run()
        return Run(
            policy=self._planner.name,
            outcomes=self._recorder.outcomes(),
            switches=sum(worker.loads - loads[worker.id] for worker in self._order),
            gpu_seconds=sum(worker.busy_s for worker in self._order),
            changes=tuple(self._changes),
        )

    # --- requests

    def _arrive(self, _: object) -> None:
        trace, at = self._scenario.trace, self._at
        self._at = at + 1
        if self._at < len(trace.times_s):
            self._events.at(float(trace.times_s[self._at]), self._arrive)
        prompt = int(trace.prompts[at]) % self._scenario.scores.prompts
        request = _Request(at, self._events.now, prompt, self._plan.row, self._plan.planned)
        self._in_system += 1
        first = self._pick(0)
        if first is None:
            self._drop(request)
        elif (
            self._level[first.id] == 0
            and self._plan.is_chain
            and self._scenario.scores.published_hardness[prompt] >= 1 - self._plan.row.direct
        ):
            self._forward(request)
        else:
            self._fleet.submit(first, WorkerJob(request, judged=False))

    def _forward(self, request: _Request) -> None:
        worker = self._pick(1)
        self._forwarded += 1
        if worker is None:
            self._drop(request)
        else:
            self._fleet.submit(worker, WorkerJob(request, judged=False))

    def _pick(self, level: int) -> Worker | None:
        if level >= len(self._table) or not self._table[level]:
            return self._rng.choice(self._order) if level else None
        workers = self._table[level]
        if self._planner.spread == "random":
            return self._rng.choice(workers)
        least = min(worker.in_hand for worker in workers)
        return self._rng.choice([worker for worker in workers if worker.in_hand == least])

    def _take(self, worker: Worker) -> list[WorkerJob]:
        """Up to a batch from the queue; queries that are too old are dropped silently."""
        jobs: list[WorkerJob] = []
        if worker.variant is None:
            return jobs
        judged = self._level[worker.id] == 0 and self._plan.is_chain
        limit = self._planner.drop_after * self._scenario.objective_s
        while worker.waiting and not jobs:
            picked = [worker.waiting.popleft() for _ in range(min(worker.batch, len(worker.waiting)))]
            seconds = self._times.batch_s(worker.variant, len(picked))
            for job in picked:
                if self._events.now - job.request.arrival_s + seconds > limit:
                    self._drop(job.request)
                else:
                    job.judged = judged
                    jobs.append(job)
        return jobs

    def _batch_s(self, variant: str, accelerator_class: str, batch: int, judged: bool) -> float:
        seconds = self._times.batch_s(variant, batch)
        if judged:
            alone = self._timings.median_s(variant, accelerator_class, 1, judged=False)
            seconds += self._timings.median_s(variant, accelerator_class, 1, judged=True) - alone
        return seconds

    def _done(self, worker: Worker, jobs: list[WorkerJob], _: float) -> None:
        variant = worker.variant
        if variant is None:
            return
        confidence = self._scenario.scores.mean_confidence.get(variant)
        for job in jobs:
            request: _Request = job.request
            if job.judged and confidence is not None and confidence[request.prompt] < self._plan.row.escalation:
                request.has_light = True
                self._forward(request)
            else:
                self._finish(request, variant)

    def _finish(self, request: _Request, variant: str) -> None:
        self._in_system -= 1
        way = Way.ACCEPTED
        if request.row.chain and variant == request.row.chain[-1]:
            way = Way.ESCALATED if request.has_light else Way.DIRECT
        self._record(request, way, variant)

    def _drop(self, request: _Request) -> None:
        self._record(request, Way.LOST, None)
        gone_at = request.arrival_s + PHANTOM_OBJECTIVES * self._scenario.objective_s
        self._events.at(gone_at, self._forget)

    def _forget(self, _: object) -> None:
        self._in_system -= 1

    def _record(self, request: _Request, way: Way, variant: str | None) -> None:
        self._recorder.record(
            arrival_s=request.arrival_s,
            end_s=self._events.now,
            way=way,
            variant=variant,
            row=request.row,
            planned=request.planned,
        )

    # --- the controller

    def _second(self, number: int) -> None:
        self._events.at(number + 1.0, self._second, number + 1)
        self._progress(min(self._events.now / self._scenario.trace.span_s, 1.0))
        queued: dict[str, float] = dict.fromkeys((level.variant for level in self._plan.levels), 0.0)
        for worker in self._order:
            if worker.variant in queued:
                queued[worker.variant] += len(worker.waiting)
        self._sample("in-system", float(self._in_system))
        self._sample("forwarded", float(self._forwarded))
        self._forwarded = 0
        for variant, count in queued.items():
            self._sample(variant, count)
        if number % SOLVE_EVERY == 0:
            self._apply(self._planner.solve(self._signals()))

    def _sample(self, name: str, value: float) -> None:
        self._samples.setdefault(name, deque(maxlen=WINDOW)).append(value)

    def _smoothed(self, name: str) -> float:
        """The exponentially weighted mean of the samples; the newest has the largest weight."""
        kept = 1 - self._planner.smoothing
        total = weights = 0.0
        for age, value in enumerate(reversed(self._samples.get(name, deque()))):
            total += value * kept**age
            weights += kept**age
        return total / weights if weights else 0.0

    def _signals(self) -> Signals:
        in_system = self._smoothed("in-system")
        queued = {variant: self._smoothed(variant) for variant in self._samples}
        rates: Mapping[str, float] = {
            level.variant: in_system if index == 0 else self._smoothed("forwarded")
            for index, level in enumerate(self._plan.levels)
        }
        queue_s = {
            variant: QUEUE_MARGIN * queued[variant] / rate if rate > 0 and queued.get(variant, 0.0) >= 1 else 0.0
            for variant, rate in rates.items()
        }
        return Signals(max(self._planner.margin * in_system, 0.1), queue_s, queued)

    def _apply(self, plan: SolvedPlan) -> None:
        """Assign levels to workers in the order of registration, whatever they run; the last level gets the rest."""
        self._plan = plan
        table: list[list[Worker]] = [[] for _ in plan.levels]
        plans = [index for index, level in enumerate(plan.levels) for _ in range(level.workers)]
        last = len(plan.levels) - 1
        for place, worker in enumerate(self._order):
            index = plans[place] if place < len(plans) else last
            level = plan.levels[index]
            table[index if plan.is_chain else 0].append(worker)
            worker.batch = level.batch
            if worker.lost:
                continue
            if worker.variant == level.variant:
                worker.pending = None
                self._level[worker.id] = index
            elif worker.pending is None or worker.pending[0] != level.variant:
                cost = self._switch_s(worker, level.variant)
                self._fleet.load(worker, level.variant, cost)
        self._table = table if plan.is_chain else table[:1]
        if not self._changes or self._changes[-1].says != _words(plan):
            replicas: dict[str, int] = {}
            for place in range(len(self._order)):
                variant = plan.levels[plans[place] if place < len(plans) else last].variant
                replicas[variant] = replicas.get(variant, 0) + 1
            share = plan.row.direct + (1 - plan.row.direct) * plan.row.escalation
            self._changes.append(PlanChange(self._events.now, _words(plan), replicas, share))

    def _switch_s(self, worker: Worker, variant: str) -> float:
        if worker.variant is None:
            return 0.0
        return self._timings.load_s(variant, worker.accelerator_class)

    def _loaded(self, worker: Worker) -> None:
        for index, level in enumerate(self._plan.levels):
            if level.variant == worker.variant:
                self._level[worker.id] = index if self._plan.is_chain else 0

    # --- failures

    def _fail(self, failure: Failure) -> None:
        alive = [worker for worker in self._order if not worker.lost]
        for worker in self._rng.sample(alive, min(failure.workers, len(alive))):
            for job in self._fleet.lose(worker):
                self._drop(job.request)
            self._events.at(self._events.now + failure.for_s, self._return, worker)

    def _return(self, worker: Worker) -> None:
        """The worker is back, and serves the queue that has grown while it was away."""
        worker.lost = False
        index = next((i for i, level in enumerate(self._table) if worker in level), 0)
        self._fleet.load(worker, self._plan.levels[index].variant, self._switch_s(worker, self._plan.levels[0].variant))


def _words(plan: SolvedPlan) -> str:
    levels = " + ".join(f"{level.workers}×{level.variant}@{level.batch}" for level in plan.levels)
    return f"{levels}, r={plan.row.direct:.2f} d={plan.row.escalation:.2f}" if plan.is_chain else levels
