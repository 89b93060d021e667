"""Forecasts: fast up, slow down, robust to gaps and restarts."""

from __future__ import annotations

import random

import pytest

from cascade_operator.planning.arrivals import (
    ArrivalRate,
    bounded_window_s,
    clearing_rate,
    fast_up_slow_down,
    moving_average,
)
from cascade_operator.snapshot import Demand
from support.factories import make_demand

NOW = 1_700_000_000.5


def poisson(rate: float, *, seconds: int, now: float = NOW, seed: int = 1) -> Demand:
    rng = random.Random(seed)
    counts = []
    for second in range(int(now) - seconds, int(now) + 1):
        counts.append((second, sum(rng.random() < rate / 1000 for _ in range(1000))))
    return Demand(tuple(counts))


def forecast(demand: Demand, *, now: float = NOW, last: ArrivalRate | None = None) -> float:
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


def ramp(*, start: float, per_second: float, seconds: int = 30) -> Demand:
    """Arrivals that change evenly, up to the last whole second."""
    end = int(NOW)
    return Demand(tuple((end - age, round(start - per_second * age)) for age in range(seconds, 0, -1)))


def test_a_rise_is_carried_on_to_when_a_decision_takes_effect() -> None:
    found = fast_up_slow_down(ramp(start=90, per_second=2), now=NOW, window_s=12.0, last=None)
    assert found.trend == pytest.approx(2, abs=0.5)
    assert found.rate == pytest.approx(90, abs=5)
    assert found.after(5.0) == pytest.approx(100, abs=6)


def test_a_fall_is_followed_no_further_than_it_has_come() -> None:
    found = fast_up_slow_down(ramp(start=20, per_second=-5), now=NOW, window_s=12.0, last=None)
    assert found.trend < -4
    assert found.rate < 35
    assert found.after(60.0) == found.least > 20


def test_a_trend_of_chance_is_none() -> None:
    trends = [
        fast_up_slow_down(poisson(30, seconds=40, seed=seed), now=NOW, window_s=12.0, last=None).trend
        for seed in range(40)
    ]
    assert sum(trend == 0 for trend in trends) > 8
    assert abs(sum(trends) / len(trends)) < 0.3


def test_before_the_window_is_known_there_is_no_trend() -> None:
    found = fast_up_slow_down(ramp(start=20, per_second=4, seconds=5), now=NOW, window_s=12.0, last=None)
    assert found.trend == 0


def test_after_a_restart_the_window_begins_with_the_first_count() -> None:
    assert forecast(Demand(((1_699_999_997, 30), (1_699_999_998, 30), (1_699_999_999, 30)))) == pytest.approx(30)


def test_seconds_without_arrivals_count_as_such() -> None:
    assert forecast(Demand(((1_699_999_900, 50), (1_699_999_999, 4)))) == pytest.approx(1, abs=0.5)
    assert forecast(Demand(((1_699_999_900, 50),))) == 0
    assert forecast(Demand(())) == 0


def test_the_second_under_way_is_not_counted() -> None:
    full = make_demand(20, now=NOW)
    assert forecast(Demand((*full.counts[:-1], (int(NOW), 3)))) == pytest.approx(20)


def test_the_second_under_way_tells_a_surge() -> None:
    quiet = make_demand(2, now=NOW)
    assert forecast(Demand((*quiet.counts[:-1], (int(NOW), 14)))) == 14


def test_the_moving_average_approaches_the_rate_by_degrees() -> None:
    last = ArrivalRate(10.0, NOW - 1)
    rate = moving_average(make_demand(50, now=NOW), now=NOW, window_s=4.0, last=last).rate
    assert 10 < rate < 50
    assert moving_average(make_demand(50, now=NOW), now=NOW, window_s=4.0, last=None).rate == pytest.approx(50)


def test_a_backlog_is_to_be_cleared_within_half_an_objective() -> None:
    assert clearing_rate(12, objective_s=6.0) == pytest.approx(4.0)


@pytest.mark.parametrize("window_s", [bounded_window_s(1e15), 7200.0, 1e15])
def test_a_window_of_hours_is_read_as_one_of_minutes(window_s: float) -> None:
    known = make_demand(20, now=NOW, seconds=600)
    found = fast_up_slow_down(known, now=NOW, window_s=window_s, last=None)
    assert found == fast_up_slow_down(known, now=NOW, window_s=300.0, last=None)
    assert found.rate == pytest.approx(20)
