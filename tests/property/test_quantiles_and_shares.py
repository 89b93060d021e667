"""Realised shares follow planned ones, whatever the stream of scores does."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_router.prompts.quantiles import WINDOW, LiveCut
from cascade_router.prompts.scorers import make_scorer
from cascade_router.prompts.shares import DIRECT_STEP, ROW_STEP, EvenDraws, draw_row

SEEDS = make_scorer("rules").quantiles
MIXES: dict[str, Callable[[random.Random], float]] = {
    "few values": lambda rng: rng.choice([0.2, 0.4, 1.2, 1.4, 2.4, 4.8]),
    "all hard": lambda rng: 4.8,
    "all easy": lambda rng: 0.2,
    "mostly easy": lambda rng: 1.4 if rng.random() < 0.1 else 0.2,
    "continuous": lambda rng: rng.gauss(1.5, 1),
    "continuous and easy": lambda rng: rng.gauss(-4, 0.1),
}
mixes = st.sampled_from(sorted(MIXES))


@given(st.lists(mixes, min_size=2, max_size=3), st.floats(0.02, 0.98), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60)
def test_the_realised_share_is_within_two_points_of_the_plan_through_changes_of_mix(
    phases: list[str], share: float, seed: int, seeded: bool
) -> None:
    rng = random.Random(seed)
    draws = EvenDraws(step=DIRECT_STEP, start=rng.random())
    cut = LiveCut(seeds=SEEDS)
    for phase in phases:
        picked = sum(
            cut.pick(MIXES[phase](rng), share=share, seed_threshold=1.3 if seeded else None, draw=draws.next())
            for _ in range(1000)
        )
        assert abs(picked / 1000 - share) <= 0.02, phase


@given(st.floats(0, 1), st.floats(0, 1), st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=600), st.floats(0, 0.999))
@settings(max_examples=100)
def test_no_share_picks_none_a_full_share_picks_all_and_higher_scores_go_first(
    score: float, share: float, seen: list[float], draw: float
) -> None:
    def pick(score: float, share: float) -> bool:
        return LiveCut(seeds=SEEDS, scores=seen).pick(score, share=share, seed_threshold=None, draw=draw)

    assert not pick(score, 0)
    assert pick(score, 1)
    assert pick(score + 0.5, share) >= pick(score, share)


@given(st.lists(st.floats(-1e6, 1e6), max_size=WINDOW * 2))
@settings(max_examples=50)
def test_memory_is_bounded_and_the_snapshot_rises_from_minimum_to_maximum(scores: list[float]) -> None:
    cut = LiveCut(seeds=SEEDS, scores=scores)
    kept = scores[-WINDOW:]
    assert cut.count == len(kept)
    assert list(cut.recent) == kept
    snapshot = cut.snapshot(21)
    if not kept:
        assert snapshot == []
    else:
        assert (snapshot[0], snapshot[-1]) == (min(kept), max(kept))
        assert len(snapshot) == 21
        assert all(a <= b + 1e-6 for a, b in itertools.pairwise(snapshot))


def test_on_a_fresh_router_the_seeds_decide_and_clear_cases_stay_clear() -> None:
    cut = LiveCut(seeds=SEEDS)
    draws = EvenDraws(step=DIRECT_STEP)
    for _ in range(5):
        assert not cut.pick(0.2, share=0.4, seed_threshold=None, draw=draws.next())
        assert cut.pick(4.8, share=0.4, seed_threshold=None, draw=draws.next())
        assert cut.pick(4.8, share=0.4, seed_threshold=None, draw=draws.next())
    assert cut.threshold(0.4) < 4.8


def test_hard_prompts_stay_direct_in_a_long_even_mix() -> None:
    rng = random.Random(5)
    draws = EvenDraws(step=DIRECT_STEP)
    cut = LiveCut(seeds=SEEDS)
    picked = Counter[float]()
    for _ in range(2000):
        score = rng.choice([0.2, 1.4, 2.4, 3.6, 4.8])
        picked[score] += cut.pick(score, share=0.4, seed_threshold=None, draw=draws.next())
    assert picked[4.8] + picked[3.6] >= 0.85 * sum(picked.values())


@given(st.sampled_from([0.1, 0.2, 0.5]), st.integers(0, 2**32), st.booleans())
@settings(max_examples=40)
def test_a_change_of_all_scores_is_made_good_within_two_hundred(share: float, seed: int, rises: bool) -> None:
    rng = random.Random(seed)
    draws = EvenDraws(step=DIRECT_STEP, start=rng.random())
    cut = LiveCut(seeds=SEEDS)

    def picked(base: float, count: int) -> int:
        return sum(
            cut.pick(base + rng.random(), share=share, seed_threshold=None, draw=draws.next()) for _ in range(count)
        )

    picked(0.0, WINDOW)
    assert abs(picked(5.0 if rises else -5.0, 200) / 200 - share) <= 0.04


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.floats(0, 0.999))
@settings(max_examples=100)
def test_rows_are_drawn_in_proportion_even_in_small_samples(weights: list[int], start: float) -> None:
    shares = [weight / sum(weights) for weight in weights]
    draws = EvenDraws(step=ROW_STEP, start=start)
    drawn = Counter(draw_row(shares, draws.next()) for _ in range(100))
    for index, share in enumerate(shares):
        assert abs(drawn[index] - 100 * share) <= 7


def test_a_draw_at_the_very_end_falls_on_the_last_row() -> None:
    assert draw_row([0.1, 0.2, 0.7 - 1e-9], 1 - 1e-12) == 2
