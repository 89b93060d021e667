"""Realised quality: served images are charged, for outcomes made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_profiler.simulate.outcomes import DrawnRow, Outcomes, Recorder, Way, window_means
from cascade_profiler.simulate.quality import blocks_of, realised_quality
from support.simulation import make_profile

ROW = DrawnRow(("light", "heavy"), 0.5, 0.5)
OTHER = DrawnRow(("light", "heavy"), 0.0, 0.5)
VARIANT = {Way.DIRECT: "heavy", Way.ESCALATED: "heavy", Way.ACCEPTED: "light", Way.DEGRADED: "light"}


def outcomes_of(*groups: tuple[float, DrawnRow, Way, int], variant: str | None = None) -> Outcomes:
    recorder = Recorder(objective_s=6.0)
    for at, row, way, count in groups:
        for index in range(count):
            recorder.record(
                arrival_s=at + index * 1e-3,
                end_s=at + 1,
                way=way,
                variant=None if way is Way.LOST else variant or VARIANT[way],
                row=row,
                planned=15.0,
            )
    return recorder.outcomes()


def test_the_shares_really_served_are_charged_not_the_planned_ones() -> None:
    outcomes = outcomes_of((0, ROW, Way.DIRECT, 20), (1, ROW, Way.ACCEPTED, 60), (2, ROW, Way.ESCALATED, 20))
    values = realised_quality(outcomes, make_profile().charges)
    # r̂ = 0.2, d̂ = 0.25, so 40 % heavy: 10 + 10·0.4
    assert values == pytest.approx(np.full(100, 14.0))


def test_a_degraded_image_counts_as_accepted_and_a_lost_one_has_no_quality() -> None:
    outcomes = outcomes_of((0, ROW, Way.DEGRADED, 50), (1, ROW, Way.ESCALATED, 50), (2, ROW, Way.LOST, 10))
    values = realised_quality(outcomes, make_profile().charges)
    assert np.nanmean(values) == pytest.approx(15.0)
    assert np.isnan(values).sum() == 10
    assert outcomes.violations.sum() == 10


def test_an_image_from_outside_the_chain_is_charged_as_its_own_models() -> None:
    row = DrawnRow(("heavy", "heavier"), 0.5, 0.5)
    values = realised_quality(outcomes_of((0, row, Way.ACCEPTED, 10), variant="light"), make_profile().charges)
    assert values == pytest.approx(np.full(10, 10.0))


def test_rows_of_one_window_are_charged_apart() -> None:
    outcomes = outcomes_of((0, ROW, Way.DIRECT, 100), (1, OTHER, Way.ACCEPTED, 100))
    values = realised_quality(outcomes, make_profile().charges)
    assert sorted(set(values.round(9).tolist())) == [10.0, 20.0]


def test_windows_are_joined_until_a_block_has_enough_requests() -> None:
    windows = np.repeat([0, 1, 2, 5, 6], [60, 30, 30, 100, 40])
    blocks = blocks_of(windows, least=100)
    assert blocks.tolist() == [0] * 120 + [1] * 140
    assert blocks_of(np.asarray([3, 3]), least=100).tolist() == [0, 0]


def test_the_time_mean_weighs_windows_alike_and_skips_what_is_unknown() -> None:
    windows, means = window_means(np.asarray([0, 0, 1, 2]), np.asarray([1.0, 3.0, 10.0, np.nan]))
    assert windows.tolist() == [0, 1]
    assert means.tolist() == [2.0, 10.0]


def test_late_answers_are_violations_with_a_quality() -> None:
    recorder = Recorder(objective_s=6.0)
    recorder.record(arrival_s=0, end_s=6.5, way=Way.DIRECT, variant="heavy", row=ROW, planned=1.0)
    recorder.record(arrival_s=0, end_s=6.0, way=Way.DIRECT, variant="heavy", row=ROW, planned=1.0)
    outcomes = recorder.outcomes()
    assert outcomes.violations.tolist() == [False, True]
    assert not np.isnan(realised_quality(outcomes, make_profile().charges)).any()
