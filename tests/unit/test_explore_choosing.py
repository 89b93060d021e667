"""What `cascade explore` drops and keeps, and what a search asks for."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from cascade_profiler.explore import comparing, telling
from cascade_profiler.explore.choosing import Scale, narrow, settle
from cascade_profiler.explore.frontier import best_chains, best_single
from cascade_profiler.explore.page import exploration_page
from cascade_profiler.explore.result import Result
from cascade_profiler.explore.rounds import BudgetTooSmall, Round, plan, within
from cascade_profiler.explore.rows import Evidence, Row
from cascade_profiler.explore.searching import Budget, search
from support.exploring import Shown, evidence

UNLIMITED = float("inf")


def test_a_setting_that_is_dear_and_bad_goes() -> None:
    known = evidence([0.5, 0.9, 0.7], [0.1, 0.4, 1.0])
    choice = settle(known, Scale(0.5, 1.0), most=8)
    assert list(choice.kept) == ["s0", "s1"]
    assert [(one.name, one.why) for one in choice.dropped] == [("s2", "no gain")]


def test_of_two_settings_that_are_alike_one_stays() -> None:
    known = evidence([0.5, 0.9, 0.9], [0.1, 0.4, 0.4001])
    assert list(settle(known, Scale(0.5, 1.0), most=8).kept) == ["s0", "s1"]


def test_a_setting_that_may_still_be_worth_it_stays_while_images_are_few() -> None:
    few = evidence([0.5, 0.9, 0.9], [0.1, 0.4, 0.8], prompts=20)
    assert len(narrow(few, Scale(0.5, 1.0), most=8).kept) == 3
    many = evidence([0.5, 0.9, 0.7], [0.1, 0.4, 0.8], prompts=8000)
    assert len(narrow(many, Scale(0.0, 1.0), most=8).kept) == 2


def test_no_more_stay_than_there_is_room_for_and_those_with_the_most_gain() -> None:
    known = evidence([0.4, 0.8, 0.88, 0.99], [0.1, 0.3, 0.5, 1.0], sees=0.0)
    choice = settle(known, Scale(0.0, 1.0), most=3)
    assert list(choice.kept) == ["s0", "s1", "s3"]
    assert choice.dropped[0].why == "least gain"


def test_where_images_do_not_tell_the_kept_settings_are_spread_over_the_prices() -> None:
    known = evidence([0.5, *[1.0] * 5], [0.1, 0.2, 0.4, 0.41, 0.8, 0.83], prompts=8)
    choice = narrow(known, Scale(0.0, 1.0), most=4)
    assert [one.name for one in choice.dropped] == ["s3", "s5"]


def test_the_last_setting_is_never_dropped() -> None:
    known = evidence([0.5, 0.5], [0.1, 0.4])
    assert list(settle(known, Scale.of(known), most=1).kept) == ["s0"]


def test_a_search_doubles_its_prompts_while_settings_leave() -> None:
    rights = np.linspace(0.3, 0.99, 40)
    shown = Shown(evidence(rights, np.geomspace(0.02, 1, 40), prompts=800))
    names = [f"s{at}" for at in range(40)]
    found = search(names, shown.draw, Budget(dict.fromkeys(names, 1.0), lambda _: UNLIMITED), prompts=800, most=8)
    assert [prompts for _, prompts in shown.asked] == [48, 100, 200, 400, 800]
    assert all(len(asked) <= most for (asked, _), most in zip(shown.asked, (40, 27, 18, 12, 8), strict=True))
    assert all(set(later) <= set(earlier) for (earlier, _), (later, _) in pairwise(shown.asked))
    assert found.images == shown.images
    assert {*found.kept, *(one.name for one in found.dropped)} == set(names)
    assert list(found.evidence.seconds) == sorted(found.evidence.seconds)
    said = telling.verdicts(found)
    assert all(name in said for name in names)


def test_a_search_stops_with_what_it_has_when_time_runs_out() -> None:
    shown = Shown(evidence([0.5, 0.8, 0.9], [0.1, 0.3, 1.0], prompts=400))
    names = ["s0", "s1", "s2"]
    left = iter([UNLIMITED, UNLIMITED, 0.0])
    found = search(names, shown.draw, Budget(dict.fromkeys(names, 1.0), lambda _: next(left)), prompts=400, most=2)
    assert len(shown.asked) == 2
    assert found.evidence.prompts == shown.asked[-1][1]
    assert len(found.kept) == 2


def test_a_budget_that_pays_for_no_search_is_refused() -> None:
    with pytest.raises(BudgetTooSmall) as refused:
        within(10, [1.0] * 20, 1000, most=8)
    assert within(refused.value.least, [1.0] * 20, 1000, most=8)


def test_rounds_of_few_settings_keep_them_all() -> None:
    assert [one.settings for one in plan(3, 1000, most=8)] == [3] * 5
    assert plan(3, 1000, most=8)[-1] == Round(1000, 3)


def test_ways_of_routing_are_compared_at_equal_compute_on_other_prompts() -> None:
    chosen_on, other = (evidence([0.6, 0.98], [0.1, 1.0], prompts=1000, seed=seed) for seed in (0, 1))
    chosen = comparing.choose(chosen_on, [0.1, 0.55, 1.0], floor=0.0)
    found = comparing.report(chosen, other, 0.0)
    assert found["best single", 0.55].mixture.portions == ((1.0, Row("s0", "s0")),)
    assert found["best single", 1.0].mean == pytest.approx(0.98)
    assert found["random", 0.55].mean == pytest.approx(0.79)
    # A discriminator that is never wrong escalates the four tenths that are not right.
    assert found["cascade", 0.55].mean == pytest.approx(0.98, abs=0.01)
    assert found["random", 0.55].mean < found["prompt rule", 0.55].mean < found["cascade", 0.55].mean
    low, high = found["prompt rule", 0.55].interval
    assert low < found["prompt rule", 0.55].mean < high


def test_the_chains_nearest_to_the_frontier_come_first() -> None:
    known = evidence([0.6, 0.62, 0.98], [0.1, 0.5, 1.0], prompts=1000)
    assert best_chains(known, 0.0, 8) == [("s0", "s2"), ("s1", "s2"), ("s0", "s1")]
    assert best_chains(known, 0.0, 1) == [("s0", "s2")]
    assert best_chains(known.of(["s0"]), 0.0, 8) == []


def test_a_price_that_pays_for_nothing_refuses_prompts() -> None:
    known: Evidence = evidence([0.6, 0.98], [0.1, 1.0])
    assert best_single(known, 0.05, 0.0).portions == ()
    half = comparing.choose(known, [0.05], 0.0)["random", 0.05]
    assert half.portions == ((pytest.approx(0.5), Row("s0", "s0")),)
    assert half.mean(known, 0.2) == pytest.approx(0.4)


def test_a_result_is_told_in_the_units_of_its_metric_as_text_and_as_a_page() -> None:
    known = evidence([0.3, 0.8, 0.9, 0.99], [0.02, 0.1, 0.5, 1.0], prompts=400)
    names = list(known.names)
    shown = Shown(known)
    found = search(names, shown.draw, Budget(dict.fromkeys(names, 1.0), lambda _: UNLIMITED), prompts=400, most=3)
    reported = evidence([0.3, 0.8, 0.9, 0.99], [0.02, 0.1, 0.5, 1.0], prompts=400, seed=1).of(list(found.kept))
    result = Result.of("loss", -1.0, found, reported, 1.0)
    mean, low, high = result.interval("hybrid", 0.5)
    assert low <= mean <= high <= 0
    text = telling.comparison(result)
    assert f"{mean:.4f} ({low:.4f} to {high:.4f})" in text

    images = {name: np.zeros((2, 8, 8, 3), dtype=np.uint8) for name in found.kept}
    page = exploration_page("a <cascade>", result, ["a <red> circle", "b", "c"], images)
    assert page.count('src="data:image/png;base64,') == 5 * 2 * 2
    assert "a &lt;red&gt; circle" in page
    assert "a &lt;cascade&gt;" in page
    assert f"{mean:.4f} ({low:.4f} to {high:.4f})" in page
    assert all(name in page for name in names)
    assert not re.search(r'(src|href)="(?!data:)|<script|@import|url\(', page)
