"""Workers of the product: they host weights, make images of every variant of these, and share their time between them.
Where several cascades use them, a variant is known by the name of its cascade, too.

At most one batch of each variant is under way on a worker, with images of one size; what comes meanwhile waits. How
batches share the device is one of two rules:

* *short first*: a batch has the device until it is done, the first that came before the others; but one of a variant
  that is `MUCH_SHORTER` goes first, for which the other pauses at the end of its step. A step is a fiftieth of an image
  of the slowest variant there.
* *even*: all batches have equal parts of the time.

A batch's seconds are those that it had the device, which is what a worker tells of it: a wait for a turn is not work.
Weights are loaded one after the other, while the worker goes on with the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cascade_operator.planning.allocation import MUCH_SHORTER

from .events import Events
from .turns import Turns
from .workers import WorkerJob

STEPS: Final = 50
"""Of an image of the slowest variant."""
_NOTHING: Final = 1e-9


class Batch:
    """Images of one variant that are made together; ``left_s`` is how long it still needs the device."""

    __slots__ = ("jobs", "left_s", "seconds", "variant")

    def __init__(self, variant: str, jobs: list[WorkerJob], seconds: float) -> None:
        self.variant = variant
        self.jobs = jobs
        self.seconds = seconds
        self.left_s = seconds


class HostedWeights:
    """Weights on a worker; ``ready_s`` is when they were loaded (None: they are loading)."""

    __slots__ = ("ready_s", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.ready_s: float | None = None


class SharedWorker:
    """One accelerator; ``batches`` are under way, those on the ``device`` since ``since_s``."""

    def __init__(self, worker_id: str, accelerator_class: str) -> None:
        self.id = worker_id
        self.accelerator_class = accelerator_class
        self.hosts: dict[str, HostedWeights] = {}
        """What it hosts, by digest."""
        self.lost = False
        """Whether the accelerator is away."""
        self.waiting: deque[WorkerJob] = deque()
        self.running: list[WorkerJob] = []
        self.run = 0
        """The number of the latest change of what has the device; events that an earlier one scheduled are ignored."""
        self.loading_until_s = -math.inf
        self.busy_s = 0.0
        self.loads = 0
        self.batches: list[Batch] = []
        self.device: tuple[Batch, ...] = ()
        self.since_s = 0.0

    @property
    def ready(self) -> bool:
        """Whether it hosts something that it can make images with."""
        return any(hosted.ready_s is not None for hosted in self.hosts.values())


class SharedFleet:
    """All workers of a simulation of the product.

    Args:
        weights: the digest of each variant's weights.
        batch_s: seconds of a batch by variant, class, number of images, whether it is judged, and their size.
        image_s: median seconds of one image, by variant and class.
        largest: most images of a batch, by variant and class.
        done: is called when a batch is finished, with its jobs and seconds.
        loaded: is called when weights of a worker are ready.
    """

    def __init__(
        self,
        events: Events,
        workers: Sequence[SharedWorker],
        *,
        weights: Mapping[str, str],
        turns: Turns,
        batch_s: Callable[[str, str, int, bool, str], float],
        image_s: Callable[[str, str], float],
        largest: Callable[[str, str], int],
        done: Callable[[SharedWorker, list[WorkerJob], float], None],
        loaded: Callable[[SharedWorker], None],
    ) -> None:
        self.workers = {worker.id: worker for worker in workers}
        self._events = events
        self._weights = weights
        self._turns = turns
        self._batch_s = batch_s
        self._image_s = image_s
        self._largest = largest
        self._done = done
        self._loaded = loaded

    def serves(self, worker: SharedWorker, variant: str) -> bool:
        """Whether a worker can make images of a variant now."""
        hosted = worker.hosts.get(self._weights[variant])
        return hosted is not None and hosted.ready_s is not None

    def load(self, worker: SharedWorker, weights: str, seconds: float) -> None:
        """Load weights, after those that are being loaded."""
        now = self._events.now
        hosted = worker.hosts[weights] = HostedWeights(now)
        worker.loads += 1
        worker.loading_until_s = max(worker.loading_until_s, now) + seconds
        if seconds <= 0 and worker.loading_until_s <= now:
            self._finish_load((worker, hosted))
        else:
            self._events.at(worker.loading_until_s, self._finish_load, (worker, hosted))

    def unload(self, worker: SharedWorker, weights: str) -> list[WorkerJob]:
        """Take weights off a worker; returns the jobs of their variants that it had in hand."""
        worker.hosts.pop(weights, None)
        jobs = [job for job in (*worker.waiting, *worker.running) if self._weights[job.variant] == weights]
        for job in jobs:
            self.cancel(worker, job)
        return jobs

    def clear(self, worker: SharedWorker) -> list[WorkerJob]:
        """Take everything off a worker; returns the jobs that it had in hand."""
        self._account(worker)
        worker.batches, worker.device, worker.hosts = [], (), {}
        worker.loading_until_s = -math.inf
        jobs = [*worker.running, *worker.waiting]
        worker.running.clear()
        worker.waiting.clear()
        worker.run += 1
        return jobs

    def lose(self, worker: SharedWorker) -> list[WorkerJob]:
        """The accelerator is lost; returns the jobs that are lost with it."""
        worker.lost = True
        return self.clear(worker)

    def _finish_load(self, subject: tuple[SharedWorker, HostedWeights]) -> None:
        worker, hosted = subject
        if any(each is hosted for each in worker.hosts.values()):
            hosted.ready_s = self._events.now
            self._loaded(worker)

    def submit(self, worker: SharedWorker, job: WorkerJob) -> None:
        """Give a worker a job."""
        worker.waiting.append(job)
        self._begin(worker)

    def cancel(self, worker: SharedWorker, job: WorkerJob) -> None:
        """Cancel a job; if its batch is then empty, the batch ends at once."""
        if job in worker.waiting:
            worker.waiting.remove(job)
            return
        worker.running.remove(job)
        batch = next(batch for batch in worker.batches if job in batch.jobs)
        batch.jobs.remove(job)
        if not batch.jobs:
            self._account(worker)
            worker.batches.remove(batch)
            self._give(worker, tuple(each for each in worker.device if each is not batch))
            self._begin(worker)

    def _begin(self, worker: SharedWorker) -> None:
        """See who should have the device, now that something came or ended."""
        if worker.lost:
            return
        if self._turns is Turns.EVEN:
            self._begin_all(worker)
            return
        first = self._first(worker)
        if first is None:
            return
        if not worker.device:
            self._take_over(worker, first)
            return
        (current,) = worker.device
        if first != current.variant:
            wait_s = self._step_left_s(worker, current)
            if wait_s < self._left_s(worker, current) - _NOTHING:
                self._events.at(self._events.now + wait_s, self._pause, (worker, worker.run))

    def _first(self, worker: SharedWorker) -> str | None:
        """The variant that should have the device: of those that are not much longer than the shortest the first."""
        wanted = dict.fromkeys([*(b.variant for b in worker.batches), *(job.variant for job in worker.waiting)])
        seconds = {variant: self._image_s(variant, worker.accelerator_class) for variant in wanted}
        least_s = min(seconds.values(), default=0.0)
        return next((variant for variant in wanted if MUCH_SHORTER * seconds[variant] < least_s), None)

    def _take_over(self, worker: SharedWorker, variant: str) -> None:
        """Have the batch of a variant go on, or begin."""
        batch = next((batch for batch in worker.batches if batch.variant == variant), None)
        self._give(worker, (batch or self._form(worker, variant),))

    def _begin_all(self, worker: SharedWorker) -> None:
        busy = {batch.variant for batch in worker.batches}
        idle = dict.fromkeys(job.variant for job in worker.waiting if job.variant not in busy)
        if idle:
            self._account(worker)
            for variant in idle:
                self._form(worker, variant)
            self._give(worker, tuple(worker.batches))

    def _form(self, worker: SharedWorker, variant: str) -> Batch:
        most = self._largest(variant, worker.accelerator_class)
        wanted = [job for job in worker.waiting if job.variant == variant]
        jobs = [job for job in wanted if job.size == wanted[0].size][:most]
        for job in jobs:
            worker.waiting.remove(job)
        worker.running.extend(jobs)
        judged = any(job.judged for job in jobs)
        batch = Batch(variant, jobs, self._batch_s(variant, worker.accelerator_class, len(jobs), judged, jobs[0].size))
        worker.batches.append(batch)
        return batch

    def _give(self, worker: SharedWorker, batches: tuple[Batch, ...]) -> None:
        """Have these batches run from now on; what others did is accounted for."""
        worker.device, worker.since_s = batches, self._events.now
        worker.run += 1
        if batches:
            soonest = min(batches, key=lambda batch: batch.left_s)
            self._events.at(
                self._events.now + soonest.left_s * len(batches), self._finish, (worker, worker.run, soonest)
            )

    def _account(self, worker: SharedWorker) -> None:
        """Take what ran since the last change off what is left."""
        ran_s = self._events.now - worker.since_s
        for batch in worker.device:
            batch.left_s -= ran_s / len(worker.device)
        if worker.device:
            worker.busy_s += ran_s
        worker.since_s = self._events.now

    def _finish(self, subject: tuple[SharedWorker, int, Batch]) -> None:
        worker, run, batch = subject
        if run != worker.run:
            return
        self._account(worker)
        worker.batches.remove(batch)
        worker.running[:] = [job for job in worker.running if job not in batch.jobs]
        self._give(worker, tuple(each for each in worker.device if each is not batch))
        # Routers hear of it before the next batch begins, as what they send at once belongs into that.
        self._done(worker, batch.jobs, batch.seconds)
        self._begin(worker)

    def _pause(self, subject: tuple[SharedWorker, int]) -> None:
        """The step during which something shorter came is over."""
        worker, run = subject
        first = self._first(worker)
        if run != worker.run or first is None or not worker.device or first == worker.device[0].variant:
            return
        self._account(worker)
        self._take_over(worker, first)

    def _left_s(self, worker: SharedWorker, batch: Batch) -> float:
        return batch.left_s - (self._events.now - worker.since_s)

    def _step_left_s(self, worker: SharedWorker, batch: Batch) -> float:
        """Until the step is over that the running batch is in."""
        hosted = (variant for variant, weights in self._weights.items() if weights in worker.hosts)
        step_s = max(self._image_s(variant, worker.accelerator_class) for variant in hosted) / STEPS
        done_s = batch.seconds - self._left_s(worker, batch)
        return (math.floor(done_s / step_s + _NOTHING) + 1) * step_s - done_s if done_s > _NOTHING else 0.0
