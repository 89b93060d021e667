"""The samplers repeat images by seed, do not depend on the batch, and stop within a step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cascade_models.recipe import Settings
from cascade_models.shapes import grammar, sampling, tokens

KINDS: list[tuple[sampling.Kind, int]] = [("heavy", 5), ("heavy", 1), ("light", 1), ("light", 2)]


def denoise(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
    """A stand-in that depends on all of its inputs, image by image."""
    level = t[:, None, None, None]
    return np.tanh(x * (1 - 0.5 * level) + words.sum(axis=(1, 2))[:, None, None, None] / np.float32(100))


def words_of(count: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(count)
    return tokens.encode_all([grammar.sample_scene(rng) for _ in range(count)])


@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_the_same_seed_gives_the_same_image(kind: sampling.Kind, steps: int) -> None:
    words = words_of(3)
    first = sampling.generate(denoise, words, [1, 2, 2**64 - 1], kind=kind, steps=steps)
    again = sampling.generate(denoise, words, [1, 2, 2**64 - 1], kind=kind, steps=steps)
    other = sampling.generate(denoise, words, [4, 5, 6], kind=kind, steps=steps)
    assert first.shape == (3, 32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("kind", "steps"), KINDS)
def test_the_rest_of_the_batch_does_not_matter(kind: sampling.Kind, steps: int) -> None:
    words, seeds = words_of(5), [10, 11, 12, 13, 14]
    together = sampling.generate(denoise, words, seeds, kind=kind, steps=steps).astype(int)
    for index in range(5):
        alone = sampling.generate(denoise, words[index : index + 1], [seeds[index]], kind=kind, steps=steps)
        assert np.abs(together[index] - alone[0]).max() <= 1


@pytest.mark.parametrize(("kind", "steps"), [("heavy", 8), ("light", 2)])
def test_a_cancelled_image_stops_within_a_step_and_leaves_the_others_alone(kind: sampling.Kind, steps: int) -> None:
    sizes: list[int] = []

    def counting(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
        sizes.append(len(x) // (2 if kind == "heavy" else 1))
        return denoise(x, t, words)

    words, seeds = words_of(3), [1, 2, 3]
    undisturbed = sampling.generate(denoise, words, seeds, kind=kind, steps=steps).astype(int)
    images = sampling.generate(
        counting, words, seeds, kind=kind, steps=steps, poll=lambda step: [True, step < 1, True]
    ).astype(int)
    assert sizes == [3] + [2] * (steps - 1)
    assert not images[1].any()
    assert np.abs(images[[0, 2]] - undisturbed[[0, 2]]).max() <= 1


def test_nothing_runs_once_everything_is_cancelled() -> None:
    calls: list[int] = []

    def counting(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
        calls.append(len(x))
        return denoise(x, t, words)

    with pytest.raises(sampling.BatchCancelled):
        sampling.generate(counting, words_of(2), [1, 2], kind="heavy", steps=10, poll=lambda step: [step < 3, step < 2])
    assert calls == [4, 4, 2]


def test_previews_come_after_every_step_but_the_last() -> None:
    seen: list[int] = []
    sampling.generate(denoise, words_of(1), [1], kind="heavy", steps=4, preview=lambda step, images: seen.append(step))
    assert seen == [0, 1, 2]


def test_without_guidance_a_heavy_step_costs_half() -> None:
    sizes: list[int] = []

    def counting(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
        sizes.append(len(x))
        return denoise(x, t, words)

    sampling.generate(counting, words_of(2), [1, 2], kind="heavy", steps=2, guidance=1.0)
    sampling.generate(counting, words_of(2), [1, 2], kind="heavy", steps=2, guidance=2.0)
    assert sizes == [2, 2, 4, 4]


def test_only_steps_in_the_interval_are_guided() -> None:
    sizes: list[int] = []

    def counting(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
        sizes.append(len(x))
        return denoise(x, t, words)

    guides = Settings(6, 2.0, "15-60").guides
    sampling.generate(counting, words_of(2), [1, 2], kind="heavy", steps=6, guidance=2.0, guides=guides)
    assert sizes == [2, 4, 4, 4, 2, 2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": [1]}, "as many seeds"),
        ({"seeds": [1, -1]}, "seed"),
        ({"seeds": [1, 2**64]}, "seed"),
        ({"steps": 0}, "steps"),
        ({"kind": "light", "steps": 9}, "1 to 4 steps"),
        ({"words": np.zeros((2, 7), np.int64)}, "shape"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"words": words_of(2), "seeds": [1, 2], "kind": "heavy", "steps": 2, **changes}
    with pytest.raises(ValueError, match=named):
        sampling.generate(denoise, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "steps"), [("heavy", 10), ("light", 2)])
def test_an_edit_begins_at_its_strength_and_keeps_what_is_masked(kind: sampling.Kind, steps: int) -> None:
    levels: list[float] = []

    def noting(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
        levels.append(float(t[0]))
        return denoise(x, t, words)

    given = np.linspace(-1, 1, 2 * 3 * 32 * 32, dtype=np.float32).reshape(2, 3, 32, 32)
    masks = np.zeros((2, 1, 32, 32), dtype=np.float32)
    masks[..., 16:] = 1
    images = sampling.generate(
        noting, words_of(2), [1, 2], kind=kind, steps=steps, given=given, masks=masks, strength=0.75
    )
    assert levels[0] == pytest.approx(0.75)
    assert levels == sorted(levels, reverse=True)
    assert len(levels) <= Settings(steps, strength=0.75).made_steps == (8 if kind == "heavy" else 2)
    assert np.array_equal(images[:, :, :16], sampling.to_image(given)[:, :, :16])
    assert not np.array_equal(images[:, :, 16:], sampling.to_image(given)[:, :, 16:])
