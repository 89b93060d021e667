"""Invariants of the quality account and of chart axes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_profiler.report.charts import ticks
from cascade_profiler.simulate.outcomes import DrawnRow, Recorder, Way
from cascade_profiler.simulate.quality import blocks_of, realised_quality
from support.simulation import make_profile

CHARGES = make_profile().charges
ROWS = st.sampled_from([DrawnRow(("light", "heavy"), r, d) for r in (0.0, 0.5) for d in (0.0, 0.5, 1.0)])
VARIANT = {Way.DIRECT: "heavy", Way.ESCALATED: "heavy", Way.ACCEPTED: "light", Way.DEGRADED: "light", Way.LOST: None}


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 60), ROWS, st.sampled_from(list(Way))), min_size=1, max_size=60),
    st.integers(1, 30),
)
def test_quality_stays_between_light_and_heavy_and_only_lost_requests_have_none(
    served: list[tuple[float, DrawnRow, Way]], least: int
) -> None:
    recorder = Recorder(objective_s=6.0)
    for at, row, way in served:
        recorder.record(arrival_s=at, end_s=at + 1, way=way, variant=VARIANT[way], row=row, planned=0.0)
    outcomes = recorder.outcomes()
    values = realised_quality(outcomes, CHARGES, block_requests=least)
    assert (np.isnan(values) == outcomes.lost).all()
    known = values[~np.isnan(values)]
    assert ((known >= 10 - 1e-9) & (known <= 20 + 1e-9)).all()
    # The grid of these charges is linear in the heavy share, so any grouping gives the same mean.
    heavy = np.isin(outcomes.way[~outcomes.lost], (Way.DIRECT, Way.ESCALATED)).mean() if len(known) else 0.0
    assert not len(known) or abs(known.mean() - (10 + 10 * heavy)) < 1e-6


@settings(max_examples=100)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=200), st.integers(1, 50))
def test_blocks_follow_windows_in_order_and_are_large_enough(windows: list[int], least: int) -> None:
    numbers = np.asarray(sorted(windows))
    blocks = blocks_of(numbers, least=least)
    assert (np.diff(blocks) >= 0).all()
    for window in set(windows):
        assert len(set(blocks[numbers == window].tolist())) == 1
    counts = np.bincount(blocks)
    assert len(counts) == 1 or counts.min() >= least


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5))
def test_ticks_enclose_their_range(low: float, span: float) -> None:
    found = ticks(low, low + span)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + span - 1e-6 * step
    assert 2 <= len(found) <= 12
