"""Accelerators with a server on each: they form batches of their queues, and can load another variant.

A worker runs one batch at a time, and never waits for a batch to become full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .events import Events


class WorkerJob:
    """One request on a worker; ``judged``: the discriminator judges its image, too; ``variant`` makes it.

    ``size`` is that of its image; empty: the default.
    """

    __slots__ = ("judged", "request", "size", "variant")

    def __init__(self, request: Any, *, judged: bool, variant: str = "", size: str = "") -> None:
        self.request = request
        self.judged = judged
        self.variant = variant
        self.size = size


class Worker:
    """One accelerator; ``variant`` is what it has loaded or is loading (None: nothing)."""

    __slots__ = (
        "accelerator_class",
        "batch",
        "busy_s",
        "id",
        "loads",
        "lost",
        "pending",
        "ready",
        "run",
        "running",
        "running_since_s",
        "variant",
        "waiting",
    )

    def __init__(self, worker_id: str, accelerator_class: str) -> None:
        self.id = worker_id
        self.accelerator_class = accelerator_class
        self.variant: str | None = None
        self.batch = 1
        """Most requests in one batch."""
        self.ready = False
        self.lost = False
        """Whether the accelerator is away."""
        self.waiting: deque[WorkerJob] = deque()
        self.running: list[WorkerJob] = []
        self.running_since_s = 0.0
        self.run = 0
        """The number of the latest batch or load; events that an earlier one scheduled are ignored."""
        self.pending: tuple[str, float] | None = None
        """The variant to load when the batch is done, and the seconds that this takes."""
        self.busy_s = 0.0
        self.loads = 0

    @property
    def in_hand(self) -> int:
        return len(self.waiting) + len(self.running)


class Fleet:
    """All workers of a simulation.

    Args:
        batch_s: seconds of a batch by variant, class, size and whether it is judged.
        take: removes the next batch from a worker's queue; the batch may be empty.
        done: is called when a batch is finished, with its jobs and seconds.
        loaded: is called when a worker is ready with its variant.
    """

    def __init__(
        self,
        events: Events,
        workers: list[Worker],
        *,
        batch_s: Callable[[str, str, int, bool], float],
        take: Callable[[Worker], list[WorkerJob]],
        done: Callable[[Worker, list[WorkerJob], float], None],
        loaded: Callable[[Worker], None],
    ) -> None:
        self.workers = {worker.id: worker for worker in workers}
        self._events = events
        self._batch_s = batch_s
        self._take = take
        self._done = done
        self._loaded = loaded

    def submit(self, worker: Worker, job: WorkerJob) -> None:
        """Put a job into a worker's queue."""
        worker.waiting.append(job)
        if not worker.running:
            self._begin(worker)

    def load(self, worker: Worker, variant: str, seconds: float) -> None:
        """Change a worker's variant when its batch is done; its queue stays."""
        if worker.running:
            worker.pending = (variant, seconds)
            return
        self._load(worker, variant, seconds)

    def cancel(self, worker: Worker, job: WorkerJob) -> None:
        """Cancel a job; if its batch is then empty, the batch ends at once."""
        if job in worker.running:
            worker.running.remove(job)
            if not worker.running:
                worker.run += 1
                worker.busy_s += self._events.now - worker.running_since_s
                self._next(worker)
        elif job in worker.waiting:
            worker.waiting.remove(job)

    def lose(self, worker: Worker) -> list[WorkerJob]:
        """The accelerator is lost; returns the jobs that are lost with it."""
        worker.lost = True
        return self.unload(worker)

    def unload(self, worker: Worker) -> list[WorkerJob]:
        """Unload the worker's variant; returns the jobs that the worker had in hand."""
        jobs = [*worker.running, *worker.waiting]
        if worker.running:
            worker.busy_s += self._events.now - worker.running_since_s
        worker.running, worker.pending = [], None
        worker.waiting.clear()
        worker.ready, worker.variant = False, None
        worker.run += 1
        return jobs

    def _load(self, worker: Worker, variant: str, seconds: float) -> None:
        worker.variant, worker.ready, worker.pending = variant, False, None
        worker.run += 1
        worker.loads += 1
        if seconds <= 0:
            self._finish_load((worker, worker.run))
        else:
            self._events.at(self._events.now + seconds, self._finish_load, (worker, worker.run))

    def _finish_load(self, subject: tuple[Worker, int]) -> None:
        worker, run = subject
        if run != worker.run:
            return
        worker.ready = True
        self._loaded(worker)
        if not worker.running:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        if not worker.ready or not worker.waiting or worker.variant is None or worker.pending is not None:
            return
        jobs = self._take(worker)
        if not jobs:
            return
        worker.running = jobs
        worker.run += 1
        now = self._events.now
        worker.running_since_s = now
        judged = any(job.judged for job in jobs)
        seconds = self._batch_s(worker.variant, worker.accelerator_class, len(jobs), judged)
        self._events.at(now + seconds, self._end, (worker, worker.run, seconds))

    def _end(self, subject: tuple[Worker, int, float]) -> None:
        worker, run, seconds = subject
        if run != worker.run:
            return
        jobs, worker.running = worker.running, []
        worker.busy_s += seconds
        self._done(worker, jobs, seconds)
        self._next(worker)

    def _next(self, worker: Worker) -> None:
        if worker.pending is not None:
            self._load(worker, *worker.pending)
        elif not worker.running:
            self._begin(worker)
