"""Features and hardness of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade_router.prompts.features import MAX_WORDS, extract
from cascade_router.prompts.scorers import ScorerError, make_scorer

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
    assert (features.num_objects, features.small_objects) == (objects, small)


def test_a_huge_prompt_is_read_up_to_a_bound() -> None:
    assert extract("small " * 100_000).prompt_length == MAX_WORDS


def test_hardness_grows_with_objects_and_more_with_small_ones() -> None:
    rules = make_scorer("rules")

    def hardness(prompt: str) -> float:
        return rules.score(prompt, draw=0.5)

    one_large = hardness("a large red circle")
    two_large = hardness("a large red circle above a large blue cross")
    two_small = hardness("a small red circle above a small blue cross")
    assert one_large < two_large < two_small < hardness(FOUR_SMALL)
    assert hardness(FOUR_SMALL) >= rules.quantiles[-1] > one_large
    assert one_large <= rules.quantiles[1]


def test_the_coin_knows_nothing_of_the_prompt() -> None:
    coin = make_scorer("coin-flip")
    assert coin.score(FOUR_SMALL, draw=0.3) == coin.score("a circle", draw=0.3) == 0.3


def test_learned_weights_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"weights": {"num_objects": 2}, "intercept": -1, "quantiles": [0, 1]}))
    assert make_scorer("learned", f"file://{path}").score(FOUR_SMALL, draw=0) == 7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "needs `weights`"),
        ('{"weights": {"numObjects": 1}, "quantiles": [0, 1]}', "unknown feature 'numObjects'"),
        ('{"weights": {}, "quantiles": [1, 0]}', "rising"),
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
