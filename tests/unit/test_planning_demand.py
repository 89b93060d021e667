"""Forecasts: fast up, slow down, robust to gaps and restarts."""

from __future__ import annotations

import random

import pytest

from cascade_operator.planning.demand import Forecast, clearing_rate, fast_up_slow_down, moving_average, steady
from cascade_operator.snapshot import Demand
from support.factories import make_demand

NOW = 1_700_000_000.5


def poisson(rate: float, *, seconds: int, now: float = NOW, seed: int = 1) -> Demand:
    rng = random.Random(seed)
    counts = []
    for second in range(int(now) - seconds, int(now) + 1):
        counts.append((second, sum(rng.random() < rate / 1000 for _ in range(1000))))
    return Demand(tuple(counts))


def forecast(demand: Demand, *, now: float = NOW, last: Forecast | None = None) -> float:
    return fast_up_slow_down(demand, now=now, window_s=4.0, last=last).rate


def test_a_steady_rate_is_forecast_as_it_is() -> None:
    assert forecast(make_demand(20, now=NOW)) == pytest.approx(20)


def test_a_surge_is_seen_within_two_seconds() -> None:
    counts = [(s, 10) for s in range(1_699_999_940, 1_699_999_998)] + [(s, 80) for s in (1_699_999_998, 1_699_999_999)]
    assert forecast(Demand(tuple(counts))) == pytest.approx(80)


def test_chance_is_no_surge() -> None:
    rates = [forecast(poisson(20, seconds=30, seed=seed)) for seed in range(30)]
    assert sum(rates) / len(rates) == pytest.approx(20, rel=0.1)
    assert max(rates) < 32


def test_a_fall_is_followed_by_halves() -> None:
    last = Forecast(80.0, NOW - 2)
    quiet = make_demand(10, now=NOW)
    assert forecast(quiet, last=last) == pytest.approx(10 + 70 / 2)
    assert forecast(quiet, last=Forecast(80.0, NOW - 60)) == pytest.approx(10, rel=0.01)


def test_after_a_restart_the_window_begins_with_the_first_count() -> None:
    assert forecast(Demand(((1_699_999_997, 30), (1_699_999_998, 30), (1_699_999_999, 30)))) == pytest.approx(30)


def test_seconds_without_arrivals_count_as_such() -> None:
    assert forecast(Demand(((1_699_999_900, 50), (1_699_999_999, 20)))) == pytest.approx(5, rel=1)
    assert forecast(Demand(((1_699_999_900, 50),))) == 0
    assert forecast(Demand(())) == 0


def test_the_second_under_way_is_not_counted() -> None:
    full = make_demand(20, now=NOW)
    assert forecast(Demand((*full.counts[:-1], (int(NOW), 3)))) == pytest.approx(20)


def test_the_moving_average_approaches_the_rate_by_degrees() -> None:
    last = Forecast(10.0, NOW - 1)
    rate = moving_average(make_demand(50, now=NOW), now=NOW, window_s=4.0, last=last).rate
    assert 10 < rate < 50
    assert moving_average(make_demand(50, now=NOW), now=NOW, window_s=4.0, last=None).rate == pytest.approx(50)


def test_pools_are_sized_for_the_same_rate_while_it_wavers_by_chance() -> None:
    assert steady(19.0, planned=20.0, window_s=4.0) == 20.0
    assert steady(21.0, planned=20.0, window_s=4.0) == 21.0
    assert steady(10.0, planned=20.0, window_s=4.0) < 15.0
    assert steady(10.0, planned=None, window_s=4.0) == 10.0


def test_a_backlog_is_to_be_cleared_within_half_an_objective() -> None:
    assert clearing_rate(12, objective_s=6.0) == pytest.approx(4.0)
