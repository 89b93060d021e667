"""How the requests of a run become outcomes, with a pipeline that keeps account of its work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cascade_models.pipelines.pipeline import Given, Poll, Preview
from cascade_models.recipe import Recipe, Settings
from cascade_models.serving import batches
from cascade_models.serving.batches import (
    CancelledRequest,
    InvalidRequest,
    Order,
    ReadRequest,
    RequestImages,
    RequestOutcome,
)
from cascade_models.serving.encoding import Form

STEPS = 10


class Counting:
    """Draws an image full of its seed; remembers for how many images each step was run, and what was judged."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.judged = 0
        self.given: list[int | None] = []

    def read(self, prompt: str, negative_prompt: str) -> str:
        if not prompt:
            raise ValueError("prompt: empty")
        return prompt

    def tokens(self, prompt: str) -> tuple[int, int]:
        return len(prompt), min(len(prompt), 3)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        poll: Poll | None,
        preview: Preview | None = None,
        given: Sequence[Given] = (),
    ) -> npt.NDArray[np.uint8]:
        self.given = [None if each.mask is None else int(each.mask.sum()) for each in given]
        alive = [True] * len(prompts)
        images = np.stack([np.full((2, 2, 3), seed, dtype=np.uint8) for seed in seeds])
        for step in range(settings.steps):
            wanted = poll(step) if poll else None
            alive = [a and w for a, w in zip(alive, wanted, strict=True)] if wanted else alive
            if not any(alive):
                break
            self.rows.append(sum(alive))
            if preview is not None:
                preview(step, lambda: images)
        return images

    def judge(self, images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.judged += len(images)
        return images[:, 0, 0, 0].astype(np.float32) / 100


RECIPE = Recipe(
    source="builtin://shapes", revision="", weights="heavy", engine="onnxruntime", precision="", height=2, width=2,
    discriminator="", batch=8, settings={"usual": Settings(STEPS), "long": Settings(2 * STEPS)},
)  # fmt: skip


def run(pipeline: Counting, orders: Sequence[Order]) -> list[RequestOutcome]:
    """Outcomes in the order of the requests, which are made in one run where they can be read."""
    read: list[ReadRequest | InvalidRequest] = []
    for one in orders:
        try:
            read.append(batches.read(pipeline, RECIPE, one))
        except ValueError as error:
            read.append(InvalidRequest(str(error)))
    readable = [each for each in read if isinstance(each, ReadRequest)]
    made = iter(batches.make(pipeline, readable))
    return [next(made) if isinstance(each, ReadRequest) else each for each in read]


def after(step: int) -> list[bool]:
    """What a request says that is cancelled once that many steps were taken: it is asked before each."""
    return [False] * step + [True] * STEPS


def order(*seeds: int, prompt: bytes = b"x", confidence: bool = False, cancelled_at: int = STEPS) -> Order:
    polls = iter(after(cancelled_at))
    return Order([prompt] * len(seeds), seeds=seeds, confidence=confidence, cancelled=lambda: next(polls))


def test_requests_of_several_images_are_one_run() -> None:
    pipeline = Counting()
    outcomes = run(pipeline, [order(1, 2), order(3)])
    assert pipeline.rows == [3] * STEPS
    assert [o.images[:, 0, 0, 0].tolist() for o in outcomes if isinstance(o, RequestImages)] == [[1, 2], [3]]


def test_only_the_images_whose_confidence_is_wanted_are_judged() -> None:
    pipeline = Counting()
    plain, judged = run(pipeline, [order(1), order(20, 30, confidence=True)])
    assert pipeline.judged == 2
    assert isinstance(plain, RequestImages)
    assert plain.confidences is None
    assert isinstance(judged, RequestImages)
    np.testing.assert_allclose(judged.confidences, [0.2, 0.3])


def test_a_cancelled_request_costs_no_further_step_and_the_others_go_on() -> None:
    pipeline = Counting()
    outcomes = run(pipeline, [order(1, 2, cancelled_at=3), order(3, confidence=True)])
    assert pipeline.rows == [3] * 3 + [1] * 7
    assert isinstance(outcomes[0], CancelledRequest)
    assert isinstance(outcomes[1], RequestImages)
    assert pipeline.judged == 1


def test_a_batch_that_nobody_wants_any_more_stops() -> None:
    pipeline = Counting()
    outcomes = run(pipeline, [order(1, cancelled_at=2), order(2, confidence=True, cancelled_at=4)])
    assert pipeline.rows == [2] * 2 + [1] * 2
    assert all(isinstance(outcome, CancelledRequest) for outcome in outcomes)
    assert pipeline.judged == 0


def test_a_wrong_request_is_refused_and_the_others_are_made() -> None:
    pipeline = Counting()
    outcomes = run(pipeline, [order(1, prompt=b""), order(2), order(3, prompt=b"\xff"), order(-1)])
    assert [type(outcome) for outcome in outcomes] == [InvalidRequest, RequestImages, InvalidRequest, InvalidRequest]
    assert pipeline.rows == [1] * STEPS


def test_each_request_has_the_form_of_its_own_parameters_and_a_wrong_one_is_refused() -> None:
    pipeline = Counting()
    asked = [{}, {"image_format": "jpeg", "image_quality": 40, "priority": 2}, {"image_format": "gif"}]
    outcomes = run(pipeline, [Order([b"x"], seeds=[1], parameters=parameters) for parameters in asked])
    assert [outcome.form for outcome in outcomes if isinstance(outcome, RequestImages)] == [
        Form("png"),
        Form("jpeg", 40),
    ]
    assert outcomes[2] == InvalidRequest("image_format: 'gif' is not a form of images; write png, jpeg, webp")
    assert pipeline.rows == [2] * STEPS


def test_a_batch_of_wrong_requests_alone_runs_nothing() -> None:
    pipeline = Counting()
    assert isinstance(run(pipeline, [order(1, prompt=b"")])[0], InvalidRequest)
    assert pipeline.rows == []


def test_requests_that_want_previews_get_their_own_images_at_three_points_of_their_way() -> None:
    shown: list[list[int]] = []
    wanting = Order([b"x"] * 2, seeds=[5, 6], show=lambda made: shown.append(made.images[:, 0, 0, 0].tolist()))
    run(Counting(), [order(1), wanting])
    assert shown == [[5, 6]] * 3


def test_a_cancelled_request_is_shown_nothing_more() -> None:
    shown: list[int] = []
    polls = iter(after(3))
    leaving = Order([b"x"], seeds=[5], cancelled=lambda: next(polls), show=lambda made: shown.append(len(made.images)))
    run(Counting(), [order(1), leaving])
    assert shown == [1]


def asking(**parameters: object) -> Order:
    return Order([b"x"], seeds=[1], parameters=parameters)


def test_a_request_names_one_of_the_sizes_that_are_offered() -> None:
    recipe = replace(RECIPE, sizes=("2x2", "4x2"))
    assert Recipe.of_parameters(recipe.parameters()) == recipe
    named = batches.read(Counting(), recipe, asking(size="4x2")).settings
    default = batches.read(Counting(), recipe, asking()).settings
    assert (recipe.pixels(named), recipe.pixels(default)) == ((4, 2), (2, 2))
    assert named != default, "so a run holds one size"
    assert named.image_work == 2 * default.image_work
    for size, said in (("8x8", "size: 8x8 is not offered: write one of 2x2, 4x2"), (7, "size: 7 is not a size")):
        with pytest.raises(ValueError, match=said):
            batches.read(Counting(), recipe, asking(size=size))


def test_guidance_that_is_written_in_another_way_is_the_same() -> None:
    one, other = (batches.read(Counting(), RECIPE, asking(guidance=text)) for text in ("2", "2.0"))
    assert one.settings == other.settings == Settings(STEPS, 2.0, size="2x2")


def test_a_request_without_settings_gets_the_fewest_steps_of_a_variant() -> None:
    pipeline = Counting()
    run(pipeline, [asking()])
    assert pipeline.rows == [1] * STEPS


def test_a_request_that_was_cancelled_while_it_waited_is_not_drawn() -> None:
    pipeline = Counting()
    gone = Order([b"x"], seeds=[1], cancelled=lambda: True)
    outcomes = run(pipeline, [gone, asking()])
    assert [type(outcome) for outcome in outcomes] == [CancelledRequest, RequestImages]
    assert pipeline.rows == [1] * STEPS
    assert [type(outcome) for outcome in run(pipeline, [gone])] == [CancelledRequest]
    assert pipeline.rows == [1] * STEPS


def test_the_time_of_a_run_is_without_that_in_which_others_had_their_turn() -> None:
    pipeline, steps = Counting(), []

    def turn() -> float:
        steps.append(time.perf_counter())
        time.sleep(0.01)
        return 0.01

    (made,) = batches.make(pipeline, [batches.read(pipeline, RECIPE, asking())], turn)
    assert len(steps) == STEPS
    assert isinstance(made, RequestImages)
    assert made.batch_s < steps[-1] - steps[0]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"steps": "6"}, "steps: '6' is not a number of steps; write a whole number"),
        ({"steps": True}, "steps: True is not a number of steps; write a whole number"),
        ({"steps": 0}, "steps: steps must be at least 1, not 0"),
        ({"guidance": 2}, 'guidance: 2 is not a scale; write a number as text, such as "4.5"'),
        ({"guidance": "-1"}, "guidance: '-1' is not a scale; write a number as text, such as \"4.5\""),
        (
            {"guidance_interval": "60-15"},
            "guidance_interval: '60-15' is not a part of the steps; write one such as 15-60",
        ),
        (
            {"step_cache": "first-block"},
            "step_cache: 'first-block' is not a step cache; write one such as first-block:0.08 or taylor-seer:3",
        ),
        ({"guidance_interval": "40-45", "steps": 4}, "guidanceInterval: guides none of 4 steps: write a longer one"),
        ({"guidance": "nan"}, "guidance: 'nan' is not a scale; write a number as text, such as \"4.5\""),
    ],
)
def test_settings_that_the_weights_cannot_draw_are_refused_by_name(parameters: dict[str, object], said: str) -> None:
    pipeline = Counting()
    outcomes = run(pipeline, [asking(**parameters), asking()])
    assert outcomes[0] == InvalidRequest(said)
    assert isinstance(outcomes[1], RequestImages)


def test_tokens_are_counted_for_those_who_ask() -> None:
    orders = [Order([b"ab", b"abcde"], seeds=[1, 2], count_tokens=True), Order([b"ab"], seeds=[3])]
    told = [outcome.tokens for outcome in run(Counting(), orders) if isinstance(outcome, RequestImages)]
    assert told == [[(2, 2), (5, 3)], ()]


def giving(**parts: Any) -> Order:
    return Order([b"a cat"], seeds=[3], **parts)


def test_an_order_with_an_image_is_drawn_from_it_and_apart_from_others() -> None:
    editing, pipeline = replace(RECIPE, edits=True), Counting()
    image, mask = np.zeros((2, 2, 3), np.uint8), np.array([[[1], [0]], [[0], [0]]], np.uint8)
    strength = {"strength": "0.500"}
    plain, whole, part = (
        batches.read(pipeline, editing, each)
        for each in (
            giving(),
            giving(images=[image], parameters=strength),
            giving(images=[image], masks=[mask], parameters=strength),
        )
    )
    assert len({each.settings for each in (plain, whole, part)}) == 3
    batches.make(pipeline, [part, part])
    assert pipeline.given == [1, 1]
    batches.make(pipeline, [whole])
    assert pipeline.given == [None]
    for parts, why in (
        ({"images": [image]}, "strength: belongs to an image"),
        ({"parameters": strength}, "strength: belongs to an image"),
        ({"masks": [mask]}, "mask: was sent without an image"),
        ({"images": [image], "parameters": {"strength": "1.5"}}, "strength: '1.5' is not above 0"),
    ):
        with pytest.raises(ValueError, match=why):
            batches.read(pipeline, editing, giving(**parts))
    with pytest.raises(ValueError, match="image: builtin://shapes is not set up to edit"):
        batches.read(pipeline, RECIPE, giving(images=[image], parameters=strength))
