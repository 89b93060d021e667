"""Rows, frontiers, rounds and searches of `cascade explore`, for any evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_profiler.explore.choosing import Scale, gains, narrow, settle
from cascade_profiler.explore.frontier import Hull
from cascade_profiler.explore.rounds import BudgetTooSmall, plan, price, shortened, within
from cascade_profiler.explore.rows import CASCADE, HYBRID, PROMPT_RULE, SINGLE, Evidence, Rows
from cascade_profiler.explore.searching import Budget, search
from cascade_profiler.measure import grid
from support.exploring import Shown


@st.composite
def evidences(draw: st.DrawFn, *, prompts: tuple[int, int] = (1, 30)) -> Evidence:
    """A few settings, with values and scores that are often equal."""
    count, number = draw(st.integers(1, 5)), draw(st.integers(*prompts))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = draw(st.sampled_from([2, 3, 50]))
    return Evidence(
        tuple(f"s{at}" for at in range(count)),
        rng.integers(1, 20, count) / 20,
        draw(st.sampled_from([0.0, 0.01, 0.2])),
        rng.integers(0, levels, (count, number)) / (levels - 1),
        rng.integers(0, levels, (count, number)) / levels,
        rng.integers(0, levels, number) / levels,
    )


def everything(rows: Rows) -> np.ndarray:
    return np.ones(len(rows.means), dtype=bool)


@given(evidences(), st.sampled_from([SINGLE, PROMPT_RULE, CASCADE, HYBRID]))
def test_a_row_is_the_mean_of_its_outcomes_and_can_be_named(known: Evidence, family: object) -> None:
    rows = Rows(known, family)  # type: ignore[arg-type]
    outcomes = rows.outcomes(np.arange(len(rows.means)))
    np.testing.assert_allclose(outcomes.mean(axis=1), rows.means)
    for index in range(len(rows.means)):
        row = rows.row(index)
        np.testing.assert_allclose(row.outcome(known, np.ones(known.prompts)), outcomes[index], atol=1e-12)
        assert row.seconds(known) == pytest.approx(rows.seconds[index])


@settings(max_examples=20)
@given(evidences())
def test_cells_are_those_of_a_profile(known: Evidence) -> None:
    rows = Rows(known)
    for light, heavy in {(row.light, row.heavy) for row in map(rows.row, range(len(rows.means))) if not row.alone}:
        low, high = known.names.index(light), known.names.index(heavy)
        sides = [grid.Side({"m": known.values[at]}) for at in (low, high)]
        cells = grid.estimates(grid.MeasuredChain(*sides, known.hardness, known.confidence[low]))
        for index in np.flatnonzero((rows.light == low) & (rows.heavy == high)):
            row = rows.row(int(index))
            cell = cells[round(100 * row.direct), round(100 * row.escalation)]
            assert rows.means[index] == pytest.approx(cell["m"].value)


@given(evidences(), st.lists(st.floats(0, 1.5), min_size=1, max_size=5))
def test_the_frontier_is_above_every_row_concave_and_reached_by_its_mixture(
    known: Evidence, prices: list[float]
) -> None:
    floor = Scale.of(known).floor
    rows = Rows(known)
    hull = Hull(rows, everything(rows), floor)
    assert np.all(hull.at(rows.seconds) >= rows.means - 1e-9)
    slopes = np.diff(hull.means) / np.diff(hull.seconds)
    assert np.all(slopes > 0)
    assert np.all(np.diff(slopes) <= 1e-6)
    asked = np.array(prices)
    np.testing.assert_allclose(hull.outcomes(asked).mean(axis=1), hull.at(asked))
    for seconds, best in zip(prices, hull.at(asked), strict=True):
        mixture = hull.mixture(seconds)
        assert mixture.mean(known, floor) == pytest.approx(best)
        assert sum(share * row.seconds(known) for share, row in mixture.portions) <= seconds + 1e-9


@given(evidences(), st.integers(1, 5))
def test_what_is_kept_explains_the_frontier_but_for_what_was_dropped(known: Evidence, most: int) -> None:
    floor = Scale.of(known).floor
    choice = settle(known, Scale.of(known), most=most)
    assert 1 <= len(choice.kept) <= most
    whole, left = Rows(known), Rows(known.of(choice.kept))
    prices = np.append(whole.seconds, left.seconds)
    lost = Hull(whole, everything(whole), floor).at(prices) - Hull(left, everything(left), floor).at(prices)
    assert lost.max() <= max((one.loss for one in choice.dropped), default=0.0) + 1e-9
    assert lost.min() >= -1e-9


@given(evidences(), st.integers(1, 5), st.sampled_from([narrow, settle]))
def test_every_setting_is_kept_or_dropped_and_no_more_than_asked(known: Evidence, most: int, decide: Any) -> None:
    choice = decide(known, Scale.of(known), most=most)
    assert 1 <= len(choice.kept) <= most
    assert sorted([*choice.kept, *(one.name for one in choice.dropped)]) == sorted(known.names)


@given(evidences())
def test_more_caution_never_finds_less_gain(known: Evidence) -> None:
    plain = gains(known, Scale.of(known))
    choice = narrow(known, Scale.of(known), most=1)
    if choice.dropped:
        first = choice.dropped[0]
        assert first.loss >= plain[first.name] - 1e-9


@given(evidences())
def test_the_choice_does_not_depend_on_the_unit_of_the_metric(known: Evidence) -> None:
    other = Evidence(known.names, known.seconds, known.judging_s, 64.0 * known.values, known.confidence, known.hardness)
    for decide in (narrow, settle):
        first, second = (decide(one, Scale.of(one), most=3).kept for one in (known, other))
        assert first == second


@given(st.integers(1, 80), st.integers(64, 3000), st.integers(1, 8), st.floats(1, 1e6), st.integers(0, 10**6))
def test_rounds_stay_within_the_budget(count: int, prompts: int, most: int, budget: float, seed: int) -> None:
    prices = (np.random.default_rng(seed).random(count) + 0.01).tolist()
    least = price(plan(count, min(64, prompts), most=most), prices, most=most)
    if least > budget:
        with pytest.raises(BudgetTooSmall):
            within(budget, prices, prompts, most=most)
        return
    rounds = within(budget, prices, prompts, most=most)
    assert price(rounds, prices, most=most) <= budget
    assert rounds[-1].prompts <= prompts
    assert [one.prompts for one in rounds] == sorted(one.prompts for one in rounds)
    assert [one.settings for one in rounds] == sorted((one.settings for one in rounds), reverse=True)
    assert rounds[0].settings == count


@given(st.integers(1, 40), st.integers(0, 1000), st.floats(0, 1e5))
def test_what_is_left_pays_for_the_rounds_that_are_left(count: int, drawn: int, budget: float) -> None:
    rounds = plan(count, 1000, most=8)
    fewer = shortened(rounds, budget, [1.0] * count, most=8, drawn=drawn)
    if fewer:
        assert price(fewer, [1.0] * count, most=8, drawn=drawn) <= budget
        assert all(drawn <= one.prompts for one in fewer)
        assert all(new.prompts <= max(drawn, old.prompts) for new, old in zip(fewer, rounds, strict=True))


@settings(max_examples=30)
@given(evidences(prompts=(64, 200)), st.integers(1, 4), st.integers(0, 2000))
def test_a_search_keeps_its_budget_and_its_answer(known: Evidence, most: int, budget: int) -> None:
    def found() -> tuple[list[str], int]:
        shown = Shown(known)
        spending = Budget(dict.fromkeys(known.names, 1.0), lambda images: budget - images)
        result = search(known.names, shown.draw, spending, prompts=known.prompts, most=most)
        assert result.images == shown.images
        # The report takes as many images of each kept setting as the last round.
        assert result.images + len(result.kept) * result.evidence.prompts <= budget
        return list(result.kept), result.images

    try:
        first = found()
    except BudgetTooSmall:
        return
    assert found() == first
