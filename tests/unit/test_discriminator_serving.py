"""Discriminators in serving: the built-in one, incomplete folders, and how images and prompts are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cascade_models import discriminators
from cascade_models.discriminators import DiscriminatorError, card, pixels, words
from cascade_models.shapes import grammar, render


def test_the_built_in_one_tells_true_prompts_from_others() -> None:
    rng = np.random.default_rng(0)
    scenes = [grammar.sample_scene(rng, objects=2) for _ in range(12)]
    images = render.to_uint8(render.render(scenes, rng))
    prompts = [grammar.describe(scene) for scene in scenes]
    judge = discriminators.load(discriminators.BUILTIN)
    right, wrong = judge.confidence(images, prompts), judge.confidence(images, prompts[::-1])
    assert right.shape == (12,)
    assert right.dtype == np.float32
    assert right.mean() > 0.8 > 0.4 > wrong.mean()
    with pytest.raises(ValueError, match="word"):
        judge.confidence(images[:1], ["a photograph of a lighthouse"])


def trained(folder: Path, **changes: object) -> Path:
    """A folder as training leaves it, but for a network that works."""
    (folder / card.NETWORK).write_bytes(b"a network")
    known = {
        "architecture": "efficientnetv2-s", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1], "reading": "hashed",
        "length": 8, "good": "", "figures": {}, "training": {},
        "sha256": {card.NETWORK: card.digest_of(folder / card.NETWORK)},
    }  # fmt: skip
    (folder / card.FILE).write_text(json.dumps({"schema": 1, **known, **changes}))
    return folder


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / card.FILE).unlink(), "has no discriminator"),
        (lambda folder: (folder / card.FILE).write_text("{"), "is corrupt"),
        (lambda folder: (folder / card.FILE).write_text('{"schema": 1, "colour": "red"}'), "is not understood"),
        (lambda folder: trained(folder, schema=9), "was written by another version"),
        (lambda folder: (folder / card.NETWORK).unlink(), "lacks discriminator.onnx"),
        (lambda folder: (folder / card.NETWORK).write_bytes(b"half a net"), "is not what was trained"),
        (lambda folder: None, "onnxruntime cannot read"),
        (lambda folder: trained(folder, reading="clip") and (folder / card.NETWORK).unlink(), "lacks discriminator"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_with_what_to_do(tmp_path: Path, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    spoil(trained(tmp_path))
    with pytest.raises(DiscriminatorError, match=said):
        discriminators.load("hf://owner/name", tmp_path)


def test_a_source_without_a_folder_is_refused() -> None:
    with pytest.raises(DiscriminatorError, match="is not built in"):
        discriminators.load("hf://owner/name")


def test_images_keep_their_means_when_they_shrink() -> None:
    images = np.random.default_rng(0).random((2, 64, 96, 3)).astype(np.float32)
    np.testing.assert_allclose(
        pixels.resize(images, 32), images.reshape(2, 32, 2, 32, 3, 3).mean(axis=(2, 4)), atol=1e-6
    )
    flat = pixels.resize(np.full((1, 17, 45, 3), 0.25, np.float32), 32)
    assert flat.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(flat, 0.25, atol=1e-6)


def test_a_network_gets_images_by_colour_first_and_normalised() -> None:
    images = np.full((1, 8, 8, 3), 255, np.uint8)
    found = pixels.prepare(images, 8, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.5))
    np.testing.assert_allclose(found[0, :, 0, 0], [1.0, 1.0, 0.0], atol=1e-6)
    with pytest.raises(ValueError, match="images must be bytes"):
        pixels.prepare(images[0], 8, mean=(0, 0, 0), std=(1, 1, 1))


def test_hashed_words_know_their_neighbours_and_no_more_than_fit() -> None:
    one, other, long = words.hashed(["red circle", "Circle, red!", "word " * 200])
    assert set(one[:2]) == set(other[:2])
    assert one[2] != other[2]
    assert not one[3:].any()
    assert len(long) == words.HASHED_LENGTH


def test_byte_pairs_are_joined_in_the_order_that_they_were_learnt() -> None:
    pieces = ["<|startoftext|>", "<|endoftext|>", "r", "e", "d</w>", "re", "red</w>", "ed</w>", "!</w>"]
    merges = [("r", "e"), ("re", "d</w>"), ("e", "d</w>")]
    tokens = words.ClipTokens({piece: at for at, piece in enumerate(pieces)}, merges, length=6)
    np.testing.assert_array_equal(tokens.encode(["Red !", "", "red " * 9]), [
        [0, 6, 8, 1, 1, 1],
        [0, 1, 1, 1, 1, 1],
        [0, 6, 6, 6, 6, 1],
    ])  # fmt: skip
