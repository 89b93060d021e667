"""Features and hardness of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade_router.prompts.features import PUBLISHED, count, extract, first_noun
from cascade_router.prompts.scorers import ScorerError, make_scorer
from cascade_router.prompts.words import MAX_WORDS, words_of

FOUR_SMALL = "a small red circle left of a small blue square above a small green triangle right of a small white cross"


@pytest.mark.parametrize(
    ("prompt", "objects", "small"),
    [
        ("a large red circle", 1, 0),
        ("a small square", 1, 1),
        ("a white square", 1, 0),
        ("A SMALL red circle left of a large blue square", 2, 1),
        (FOUR_SMALL, 4, 4),
        ("a tiny house on a hill", 2, 1),
        ("the cat and the little dog, sleeping under an old tree", 3, 1),
        ("", 0, 0),
        ("!!! ...", 0, 0),
        ("小さな赤い丸", 1, 0),
    ],
)
def test_objects_and_small_objects_are_counted(prompt: str, objects: int, small: int) -> None:
    features = extract(prompt)
    assert (features.noun_phrases, features.small_objects) == (objects, small)


def test_a_huge_prompt_is_read_up_to_a_bound() -> None:
    assert len(words_of("small " * 100_000)) == MAX_WORDS


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a dog sitting on a couch with a laptop", (9, 0, 2, 4, 0, 2, 1, 0)),
        ("three brown cups with white designs on them", (8, 0, 2, 1, 2, 2, 0, 0)),
        ("a fountain in the dark", (5, 1, 1, 2, 0, 1, 0, 0)),
        ("a large metal structure", (4, 0, 0, 1, 1, 0, 0, 0)),
    ],
)
def test_published_features_are_near_the_counts_of_the_parser(prompt: str, expected: tuple[int, ...]) -> None:
    features = extract(prompt)
    for name, count_of_parser in zip(PUBLISHED, expected, strict=True):
        assert abs(getattr(features, name) - count_of_parser) < 1, name


def test_unknown_words_are_judged_by_length_and_ending() -> None:
    assert extract("a zymurgistical xylophonist").token_rarity > extract("a dog").token_rarity + 1
    assert 2.5 < extract("qqzz vvkk wwjj").prompt_length < 3.5


@pytest.mark.parametrize(
    ("prompt", "noun"),
    [
        ("a close up of a dog", "close"),
        ("a large red fire truck on a road", "truck"),
        ("the sail is white", "sail"),
        ("sitting and waiting", ""),
    ],
)
def test_the_subject_of_a_caption_is_the_noun_of_its_first_phrase(prompt: str, noun: str) -> None:
    assert first_noun(words_of(prompt)) == noun


def test_hardness_grows_with_small_objects() -> None:
    rules = make_scorer("rules")

    def hardness(prompt: str) -> float:
        return rules.score(prompt, draw=0.5)

    one_large = hardness("a large red circle")
    one_small = hardness("a small red circle above a large blue cross")
    two_small = hardness("a small red circle above a small blue cross")
    assert one_large < one_small < two_small < hardness(FOUR_SMALL)
    assert hardness(FOUR_SMALL) > rules.quantiles[-2] > one_large
    assert one_large <= rules.quantiles[len(rules.quantiles) // 2]


def test_the_coin_knows_nothing_of_the_prompt() -> None:
    coin = make_scorer("coin-flip")
    assert coin.score(FOUR_SMALL, draw=0.3) == coin.score("a circle", draw=0.3) == 0.3


def test_learned_weights_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"weights": {"noun_phrases": 2, "prompt_length": 0.5}, "quantiles": [0, 1]}))
    expected = 2 * count(words_of(FOUR_SMALL)).noun_phrases + 0.5 * extract(FOUR_SMALL).prompt_length
    assert make_scorer("learned", f"file://{path}").score(FOUR_SMALL, draw=0) == pytest.approx(expected)


def test_learned_words_come_from_a_file(tmp_path: Path) -> None:
    words = {
        "columns": ["hardness"],
        "intercept": [500],
        "unknown": [10],
        "unknownLetter": [1],
        "words": {"dog": [2000]},
        "suffixes": {"ing": [100]},
    }
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"weights": {}, "quantiles": [0, 1], "words": words}))
    scorer = make_scorer("learned", str(path))
    assert scorer.score("Dog, running!", draw=0) == pytest.approx(0.5 + 2 + 0.01 + 0.007 + 0.1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "needs `weights`"),
        ('{"weights": {"numObjects": 1}, "quantiles": [0, 1]}', "unknown feature 'numObjects'"),
        ('{"weights": {}, "quantiles": [1, 0]}', "rising"),
        ('{"weights": {"noun_phrases": NaN}, "quantiles": [0, 1]}', "finite"),
        ('{"weights": {}, "quantiles": [0, 1], "words": {"columns": ["a"]}}', "cascade fit-hardness"),
    ],
)
def test_weights_that_cannot_be_used_are_named(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "weights.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ScorerError, match=said) as raised:
        make_scorer("learned", str(path))
    assert "hardness.source" in str(raised.value)


def test_learned_without_a_file_and_unknown_scorers_are_refused() -> None:
    with pytest.raises(ScorerError, match=r"hardness\.source"):
        make_scorer("learned")
    with pytest.raises(ScorerError, match="rules, learned, coin-flip"):
        make_scorer("oracle")
