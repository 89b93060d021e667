"""Prompts of the shapes domain are parsed, described, refused and split as documented."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_models.shapes import grammar, tokens

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=50)
@given(seed=seeds, split=st.sampled_from(("train", "test", "heldout", "any")))
def test_described_scenes_parse_back(seed: int, split: grammar.Split) -> None:
    scene = grammar.sample_scene(np.random.default_rng(seed), split=split)
    assert grammar.parse(grammar.describe(scene)) == scene


@settings(max_examples=50)
@given(seed=seeds, article=st.sampled_from(("a", "an", "the", "")), stop=st.sampled_from(("", ".", " . ")))
def test_case_spacing_articles_and_full_stop_do_not_matter(seed: int, article: str, stop: str) -> None:
    scene = grammar.sample_scene(np.random.default_rng(seed))
    prompt = "  " + re.sub(r"\ba ", f"{article}  ", grammar.describe(scene)).upper() + stop
    assert grammar.parse(prompt) == scene


@settings(max_examples=50)
@given(text=st.text(max_size=200))
def test_what_is_no_prompt_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(grammar.PromptError, match="for example") as caught:
        grammar.parse(text + " x")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        ("   . ", "empty"),
        ("a purple circle", "'purple' at word 2"),
        ("a small red", "ends too early"),
        ("a red circle beside a blue square", "'beside' at word 4"),
        ("a red circle left a blue square", "'left' at word 4"),
        ("a red circle left of a blue square left of a white cross", "orthogonal"),
        ("a red circle above a blue square left of a white cross right of a red square", "parallel"),
        (" above ".join(["a red circle"] * 5), "orthogonal|at most 4"),
        ("x" * 10_000, "xxx"),
    ],
)
def test_what_was_not_understood_is_named(prompt: str, named: str) -> None:
    with pytest.raises(grammar.PromptError, match=named):
        grammar.parse(prompt)


def test_a_size_may_be_left_out_and_is_drawn_large() -> None:
    scene = grammar.parse(grammar.EXAMPLE)
    assert [shape.size for shape in scene.objects] == ["small", "large", None]
    assert (tokens.encode(scene)[2] == tokens.encode(grammar.parse("a large green triangle"))[0]).all()


def test_splits_are_disjoint_and_held_out_combinations_are_never_trained() -> None:
    rng = np.random.default_rng(0)
    prompts = {
        split: {
            grammar.describe(grammar.sample_scene(rng, objects, split)) for objects in (2, 3, 4) for _ in range(100)
        }
        for split in ("train", "test", "heldout")
    }
    assert not prompts["train"] & prompts["test"]
    for prompt in prompts["train"] | prompts["test"]:
        assert not grammar.HELD_OUT & set(grammar.parse(prompt).objects)
    for prompt in prompts["heldout"]:
        assert grammar.HELD_OUT & set(grammar.parse(prompt).objects)


@pytest.mark.parametrize("small", [0, 1, 2, 3])
def test_the_number_of_small_shapes_can_be_chosen(small: int) -> None:
    scene = grammar.sample_scene(np.random.default_rng(small), 3, small=small)
    assert sum(shape.size == "small" for shape in scene.objects) == small


def test_tokens_tell_scenes_apart() -> None:
    rng = np.random.default_rng(1)
    scenes = list({grammar.sample_scene(rng, split="any") for _ in range(300)})
    words = tokens.encode_all(scenes)
    assert words.shape == (len(scenes), tokens.SLOTS, tokens.WORDS)
    assert words.max() < tokens.NULL < tokens.VOCABULARY_SIZE
    assert len(np.unique(words.reshape(len(scenes), -1), axis=0)) == len(scenes)
