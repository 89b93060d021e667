"""Quantiles of values in rising order agree with numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.quantiles import interpolated, nearest_rank

RISING = st.lists(st.floats(0, 10), min_size=1).map(sorted)


@given(RISING, st.floats(0, 1))
def test_between_neighbours_it_is_a_straight_line(rising: list[float], level: float) -> None:
    assert interpolated(rising, level) == pytest.approx(np.quantile(rising, level))


@given(RISING, st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_the_nearest_rank_is_one_of_the_values_with_that_share_below(rising: list[float], level: float) -> None:
    found = nearest_rank(rising, level)
    assert found is not None
    assert found == np.quantile(rising, level, method="inverted_cdf")
    assert sum(value <= found for value in rising) >= level * len(rising)


def test_of_no_values_there_is_no_rank() -> None:
    assert nearest_rank([], 0.5) is None
