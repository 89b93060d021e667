"""Workers that host several variants in the simulator: who has the device when, and what comes of it for requests."""

from __future__ import annotations

import pytest

from cascade_operator.snapshot import together
from cascade_profiler.simulate.events import Events
from cascade_profiler.simulate.shared_workers import SharedFleet, SharedWorker
from cascade_profiler.simulate.turns import Turns
from cascade_profiler.simulate.workers import Worker, WorkerJob

SECONDS = {"light": 0.1, "medium": 3.0, "heavy": 5.0}
"""A step is a tenth of a second."""


class Bench:
    """One worker that hosts all three, and what it made when."""

    def __init__(self, turns: Turns) -> None:
        self.events = Events()
        self.worker = SharedWorker("gpu-0", "gpu")
        self.ends: list[tuple[str, float]] = []
        self.told: list[float] = []
        self.fleet = SharedFleet(
            self.events,
            [self.worker],
            turns=turns,
            batch_s=lambda variant, _, images, judged: SECONDS[variant] * images,
            image_s=lambda variant, _: SECONDS[variant],
            largest=lambda variant, _: 4 if variant == "light" else 1,
            done=self._done,
            loaded=lambda worker: None,
        )
        self.fleet.load(self.worker, together(SECONDS), 0.0)

    def _done(self, worker: Worker, jobs: list[WorkerJob], seconds: float) -> None:
        self.told.append(seconds)
        self.ends += [(job.request, self.events.now) for job in jobs]

    def submit(self, at: float, variant: str, name: str = "") -> WorkerJob:
        job = WorkerJob(name or variant, judged=False, variant=variant)
        self.events.at(at, lambda _: self.fleet.submit(self.worker, job))
        return job

    def run(self) -> dict[str, float]:
        self.events.run()
        return {name: round(at, 6) for name, at in self.ends}


def test_short_work_goes_first_at_the_next_step_and_what_it_interrupts_goes_on() -> None:
    bench = Bench(Turns.SHORT_FIRST)
    bench.submit(0.0, "heavy")
    bench.submit(1.03, "light")
    assert bench.run() == {"light": 1.2, "heavy": 5.1}
    # A worker tells how long a batch had the device.
    assert bench.told == pytest.approx([0.1, 5.0])
    assert bench.worker.busy_s == pytest.approx(5.1)


def test_what_is_hardly_shorter_waits_its_turn() -> None:
    bench = Bench(Turns.SHORT_FIRST)
    bench.submit(0.0, "heavy")
    bench.submit(1.0, "medium")
    assert bench.run() == {"heavy": 5.0, "medium": 8.0}


def test_what_comes_while_a_batch_runs_is_made_together_afterwards() -> None:
    bench = Bench(Turns.SHORT_FIRST)
    for number in range(6):
        bench.submit(0.01 * number, "light", f"light-{number}")
    ends = bench.run()
    assert ends["light-0"] == 0.1
    assert all(ends[f"light-{number}"] == 0.5 for number in (1, 2, 3, 4))
    assert ends["light-5"] == 0.6


def test_evenly_shared_batches_have_equal_parts_of_the_time() -> None:
    bench = Bench(Turns.EVEN)
    bench.submit(0.0, "heavy")
    bench.submit(1.0, "medium")
    bench.submit(2.0, "light")
    # The light batch has a third of 0.3 s; the medium one half of what was before and comes after.
    assert bench.run() == {"light": 2.3, "medium": 7.1, "heavy": 8.1}
    assert bench.worker.busy_s == pytest.approx(8.1)


@pytest.mark.parametrize("turns", list(Turns))
def test_a_cancelled_job_leaves_its_time_to_the_others(turns: Turns) -> None:
    bench = Bench(turns)
    heavy = bench.submit(0.0, "heavy")
    bench.submit(1.0, "medium")
    bench.events.at(2.0, lambda _: bench.fleet.cancel(bench.worker, heavy))
    assert bench.run() == {"medium": 5.0 if turns is Turns.SHORT_FIRST else 4.5}
    assert not bench.worker.running


@pytest.mark.parametrize("turns", list(Turns))
def test_a_worker_that_is_lost_gives_back_all_it_had_and_makes_nothing_more(turns: Turns) -> None:
    bench = Bench(turns)
    jobs = [
        bench.submit(0.0, "heavy"),
        bench.submit(0.5, "light"),
        bench.submit(0.5, "light"),
        bench.submit(0.6, "heavy"),
    ]
    lost: list[WorkerJob] = []
    bench.events.at(0.55, lambda _: lost.extend(bench.fleet.lose(bench.worker)))
    bench.run()
    assert {id(job) for job in lost} == {id(job) for job in jobs[:3]}
    assert bench.ends == []
    assert not bench.worker.ready
