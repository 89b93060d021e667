"""The checker gives full scores to true images, almost none to other prompts, and finds any single error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cascade_models.shapes import checker, grammar, render

IMAGES = 40


def scenes_of(objects: int, seed: int = 0) -> list[grammar.Scene]:
    rng = np.random.default_rng((objects, seed))
    return [grammar.sample_scene(rng, objects, "any") for _ in range(IMAGES)]


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
@pytest.mark.parametrize("noise", [0.0, 0.06])
def test_true_images_are_perfect(objects: int, noise: float) -> None:
    rng = np.random.default_rng(objects)
    scenes = scenes_of(objects)
    images = render.render(scenes, rng)
    images = render.to_uint8(images + np.float32(noise) * rng.standard_normal(images.shape, dtype=np.float32))
    for image, scene in zip(images, scenes, strict=True):
        assert checker.check(image, scene) == checker.SceneScores(1.0, 1.0, 1.0), grammar.describe(scene)
        slots = checker.slots(checker.detect(image), scene)
        assert slots.count
        assert all(slots.objects)
        assert all(slots.relations)


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
def test_other_prompts_score_near_the_floor(objects: int) -> None:
    scenes = scenes_of(objects)
    images = render.to_uint8(render.render(scenes, np.random.default_rng(objects)))
    scores = [checker.check(image, other) for image, other in zip(images, scenes[1:] + scenes[:1], strict=True)]
    assert np.mean([score.strict for score in scores]) <= 0.05
    assert np.mean([score.q2 for score in scores]) <= 0.08


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
def test_a_single_wrong_attribute_is_caught(objects: int) -> None:
    rng = np.random.default_rng(objects)
    scenes = scenes_of(objects, seed=1)
    for image, scene in zip(render.to_uint8(render.render(scenes, rng)), scenes, strict=True):
        for field, values in (("size", grammar.SIZES), ("colour", grammar.COLOURS), ("form", grammar.FORMS)):
            shape = scene.objects[-1]
            other = str(rng.choice([value for value in values if value != getattr(shape, field)]))
            wrong = dataclasses.replace(shape, **{field: other})
            asked = dataclasses.replace(scene, objects=(*scene.objects[:-1], wrong))
            score = checker.check(image, asked)
            assert score.strict == 0
            assert score.q2 < 1
            assert score.adherence < 1


def test_a_single_wrong_relation_is_caught() -> None:
    scenes = [scene for objects in (2, 3, 4) for scene in scenes_of(objects) if len(set(scene.objects)) == objects]
    images = render.to_uint8(render.render(scenes, np.random.default_rng(0)))
    for image, scene in zip(images, scenes, strict=True):
        for index, relation in enumerate(scene.relations):
            opposite = grammar.RELATIONS[grammar.RELATIONS.index(relation) ^ 1]
            relations = (*scene.relations[:index], opposite, *scene.relations[index + 1 :])
            assert checker.check(image, grammar.Scene(scene.objects, relations)).strict == 0


@pytest.mark.parametrize("objects", [2, 3, 4])
def test_a_missing_or_additional_shape_is_caught(objects: int) -> None:
    scenes = scenes_of(objects)
    images = render.to_uint8(render.render(scenes, np.random.default_rng(0)))
    for image, scene in zip(images, scenes, strict=True):
        fewer = grammar.Scene(scene.objects[:-1], scene.relations[: objects - 2])
        assert checker.check(image, fewer).strict == 0
        found = checker.detect(image)
        assert len(found) == objects
        assert checker.score(found[:-1], scene).strict == 0


def test_a_size_left_open_accepts_either() -> None:
    for size in grammar.SIZES:
        scene = grammar.Scene((grammar.Shape(size, "red", "square"),))
        image = render.to_uint8(render.render([scene], np.random.default_rng(0)))[0]
        assert checker.check(image, grammar.parse("a red square")).strict == 1


def test_noise_and_emptiness_score_nothing() -> None:
    scene = grammar.parse(grammar.EXAMPLE)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for image in (np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8), noise):
        assert checker.check(image, scene).strict == 0
        assert checker.check(image, scene).q2 == 0


def test_other_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[32, 32, 3\]"):
        checker.detect(np.zeros((64, 64, 3), np.uint8))
