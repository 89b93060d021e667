"""Whether a series of timings is long enough, and its percentiles."""

from __future__ import annotations

import numpy as np

from cascade_profiler.measure import samples
from cascade_profiler.measure.progress import Progress


def test_a_steady_series_is_soon_long_enough() -> None:
    assert not samples.enough([0.1] * (samples.LEAST - 1))
    assert samples.enough([0.1] * samples.LEAST)


def test_a_noisy_series_goes_on_until_its_median_is_known_or_to_the_bound() -> None:
    noise = list(np.random.default_rng(0).lognormal(0, 0.5, samples.MOST))
    assert not samples.enough(noise[:100])
    assert samples.enough(noise)


def test_the_interval_holds_the_true_median_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    intervals = [samples.median_interval(list(rng.exponential(1.0, 50))) for _ in range(400)]
    held = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert 0.92 < held <= 1.0


def test_a_timing_is_median_95th_and_99th_percentile_in_microseconds() -> None:
    timing = samples.timing([index / 1000 for index in range(101)])
    assert timing == samples.Percentiles(50_000, 95_000, 99_000, 101)


def test_what_the_discriminator_adds_is_never_nothing_nor_below_its_median() -> None:
    fast, slow = samples.Percentiles(900, 2000, 2100, 20), samples.Percentiles(1000, 1500, 1900, 20)
    assert samples.difference(fast, slow) == samples.Percentiles(1, 500, 500, 20)
    assert samples.difference(slow, fast) == samples.Percentiles(100, 100, 100, 20)


def test_progress_says_what_was_found_and_how_long_it_will_take() -> None:
    now, said = [0.0], []
    progress = Progress({"a": 60.0, "b": 30.0}, clock=lambda: now[0], write=said.append)
    progress.done("a", "1 ms")
    progress.at("b", 0.5, 15.0)
    now[0] = 3.0
    progress.at("b", 0.9, 5.0)
    assert said == ["[0:30 left] a: 1 ms", "[0:05 left] b: 90%"]
