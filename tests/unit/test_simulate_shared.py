"""Workers that host several variants in the simulator: who has the device when, and what comes of it for requests."""

from __future__ import annotations

import pytest

from cascade_profiler.simulate.events import Events
from cascade_profiler.simulate.shared_workers import SharedFleet, SharedWorker
from cascade_profiler.simulate.turns import Turns
from cascade_profiler.simulate.workers import WorkerJob

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
            weights={variant: variant for variant in SECONDS},
            turns=turns,
            batch_s=lambda variant, _, images, judged, size: SECONDS[variant] * images,
            image_s=lambda variant, _: SECONDS[variant],
            largest=lambda variant, _: 4 if variant == "light" else 1,
            done=self._done,
            loaded=lambda worker: None,
        )
        for weights in SECONDS:
            self.fleet.load(self.worker, weights, 0.0)

    def _done(self, worker: SharedWorker, jobs: list[WorkerJob], seconds: float) -> None:
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


def test_while_weights_are_loaded_and_unloaded_the_others_go_on() -> None:
    bench = Bench(Turns.SHORT_FIRST)
    bench.submit(0.0, "heavy")
    light = bench.submit(4.5, "light")
    bench.events.at(1.0, lambda _: bench.fleet.unload(bench.worker, "light"))
    bench.events.at(1.0, lambda _: bench.fleet.load(bench.worker, "light", 2.0))
    served: list[bool] = []
    for at in (0.9, 2.9, 3.1):
        bench.events.at(at, lambda _: served.append(bench.fleet.serves(bench.worker, "light")))
    assert bench.run() == {"light": 4.7, "heavy": 5.1}
    assert served == [True, False, True]
    assert light not in bench.worker.waiting


def test_what_is_unloaded_gives_back_the_requests_for_it_alone() -> None:
    bench = Bench(Turns.SHORT_FIRST)
    heavy = [bench.submit(0.0, "heavy"), bench.submit(0.1, "heavy", "second")]
    bench.submit(0.2, "medium")
    given: list[WorkerJob] = []
    bench.events.at(1.0, lambda _: given.extend(bench.fleet.unload(bench.worker, "heavy")))
    assert bench.run() == {"medium": 4.0}
    assert {id(job) for job in given} == {id(job) for job in heavy}
