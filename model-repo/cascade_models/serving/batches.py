"""What a request wants, and the denoising run of requests that want the same settings; knows nothing of Triton.

A request asks for one or more images (rows). Rows of all requests of a run are made together; a request that is wrong
is answered by its error and a request that is cancelled loses its rows at the next step, without touching the others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_models import pipelines
from cascade_models.pipelines import Pipeline
from cascade_models.pipelines.pipeline import Given
from cascade_models.recipe import Recipe, RecipeError, Settings
from cascade_models.serving.encoding import Form


@dataclass(frozen=True)
class Order:
    """One request: prompts as bytes, one per image, and what belongs to each; empty tuples where not given.

    Attributes:
        parameters: the request's own: how it is drawn, and in which form it wants files.
        show: is given previews, where the request wants them.
        answer: is given what became of the request, once.
        images: given ones, in the size of all images, from which others are drawn.
        masks: where those are drawn anew (not 0); empty for everywhere.
        count_tokens: whether the tokens of the prompts are wanted.
    """

    prompts: Sequence[bytes]
    negative_prompts: Sequence[bytes] = ()
    seeds: Sequence[int] = ()
    images: Sequence[npt.NDArray[np.uint8]] = ()
    masks: Sequence[npt.NDArray[np.uint8]] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    confidence: bool = False
    count_tokens: bool = False
    cancelled: Callable[[], bool] = lambda: False
    show: Show | None = None
    answer: Callable[[Any], None] = lambda outcome: None


@dataclass(frozen=True)
class RequestImages:
    """Images ``[n, height, width, 3]`` of a request, with confidences ``[n]`` if it asked for them, and their form.

    Attributes:
        batch: images that were made together, for this request and others.
        batch_s: seconds that the run took, judging included, without those in which it waited for its turn.
        tokens: of each prompt and read of it, if the request asked for that.
    """

    images: npt.NDArray[np.uint8]
    confidences: npt.NDArray[np.float32] | None
    form: Form
    batch: int
    batch_s: float
    tokens: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class InvalidRequest:
    """A request is wrong; the message names the input."""

    message: str


@dataclass(frozen=True)
class CancelledRequest:
    """A request was cancelled before its images were finished."""


RequestOutcome = RequestImages | InvalidRequest | CancelledRequest

Show = Callable[[RequestImages], None]
"""Takes the images of a request as far as they are."""


@dataclass(frozen=True)
class ImageRow:
    """One image that is to be drawn: what the pipeline takes for it, its seed, and the image that it is drawn from."""

    prompt: Any
    seed: int
    given: Given | None = None


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """An order that can be followed: how its images are drawn, and in which form they are wanted."""

    order: Order
    settings: Settings
    form: Form
    rows: Sequence[ImageRow]
    tokens: Sequence[tuple[int, int]] = ()

    @property
    def images(self) -> int:
        return len(self.rows)


def read(pipeline: Pipeline, recipe: Recipe, order: Order) -> ReadRequest:
    """What an order says; ``recipe`` is that of the pipeline. Raises ValueError naming the input or parameter."""
    form, settings = Form.read(order.parameters), _settings(pipeline, recipe, order)
    rows = _rows(pipeline, order)
    tokens = [pipeline.tokens(row.prompt) for row in rows] if order.count_tokens else ()
    return ReadRequest(order, settings, form, rows, tokens)


def preview_steps(steps: int) -> frozenset[int]:
    """After which steps (from 0) a stream shows how far it is: a quarter, a half and three quarters of the way."""
    return frozenset(step - 1 for step in (steps // 4, steps // 2, 3 * steps // 4) if 0 < step < steps)


def make(
    pipeline: Pipeline, requests: Sequence[ReadRequest], turn: Callable[[], float] = lambda: 0.0
) -> list[RequestOutcome]:
    """The outcome of each request of a run; those that want previews get them meanwhile.

    Args:
        requests: of the same settings.
        turn: is called before each step, and returns when that may be taken: the seconds that it waited.
    """
    live = {at for at, request in enumerate(requests) if not request.order.cancelled()}
    outcomes: list[RequestOutcome] = [CancelledRequest() for _ in requests]
    if not live:
        return outcomes
    rows = [(at, row) for at in sorted(live) for row in requests[at].rows]
    asked, settings = len(live), requests[0].settings
    places = {at: [place for place, (owner, _) in enumerate(rows) if owner == at] for at in live}
    began, waited_s = time.perf_counter(), 0.0

    def poll(step: int) -> list[bool] | None:
        nonlocal waited_s
        waited_s += turn()
        if step > 0:
            live.difference_update([at for at in live if requests[at].order.cancelled()])
        return [at in live for at, _ in rows] if len(live) < asked else None

    def preview(step: int, images: Callable[[], npt.NDArray[np.uint8]]) -> None:
        shows = {at: show for at in sorted(live) if (show := requests[at].order.show) is not None}
        if step in shown_steps and shows:
            whole = images()
            for at, show in shows.items():
                show(RequestImages(whole[places[at]], None, requests[at].form, len(rows), taken_s()))

    def taken_s() -> float:
        return time.perf_counter() - began - waited_s

    shown = any(requests[at].order.show is not None for at in live)
    shown_steps = preview_steps(settings.made_steps) if shown else frozenset[int]()
    given = [row.given for _, row in rows if row.given is not None]
    prompts, seeds = [row.prompt for _, row in rows], [row.seed for _, row in rows]
    images = pipeline.generate(prompts, seeds, settings, poll, preview if shown_steps else None, given)
    judged = [place for place, (at, _) in enumerate(rows) if at in live and requests[at].order.confidence]
    confidences = np.zeros(len(rows), dtype=np.float32)
    if judged:
        confidences[judged] = pipeline.judge(images[judged], [prompts[place] for place in judged])
    batch_s = taken_s()
    for at in live:
        mine = places[at]
        scores = confidences[mine] if requests[at].order.confidence else None
        outcomes[at] = RequestImages(images[mine], scores, requests[at].form, len(rows), batch_s, requests[at].tokens)
    return outcomes


def _settings(pipeline: Pipeline, recipe: Recipe, order: Order) -> Settings:
    """How a request wants to be drawn; raises ValueError naming the parameter."""
    settings = Settings.read(order.parameters, recipe.default)
    try:
        pipelines.check_settings(recipe, settings)
    except RecipeError as error:
        raise ValueError(f"{error.key}: {error}") from None
    if order.images and not recipe.edits:
        raise ValueError(f"image: {recipe.source} is not set up to edit images here; send the prompt alone")
    if order.masks and not order.images:
        raise ValueError("mask: was sent without an image; send both")
    if (settings.strength is None) == bool(order.images):
        raise ValueError("strength: belongs to an image; send both, or none of them")
    width, height = recipe.pixels(settings)
    if any(each.shape[:2] != (height, width) for each in (*order.images, *order.masks)):
        raise ValueError(f"image: it and its mask must be as large as what is drawn, {width}x{height}")
    settings = replace(settings, masked=bool(order.masks))
    if settings.lora:
        pipeline.check_adapter(settings.lora)
    return settings


def _rows(pipeline: Pipeline, order: Order) -> list[ImageRow]:
    """The images that a request asks for; raises ValueError naming the input."""
    count = len(order.prompts)
    negatives = order.negative_prompts or [b""] * count
    seeds = order.seeds or [secrets.randbits(63) for _ in range(count)]
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seed: {seed} is below zero; send 0 to 2**63-1, or none for a random one")
    given: list[Given | None] = [Given(image) for image in order.images]
    if order.masks:
        given = [Given(image, mask[..., 0] > 0) for image, mask in zip(order.images, order.masks, strict=True)]
    prompts = (
        pipeline.read(_text(prompt, "prompt"), _text(negative, "negative_prompt"))
        for prompt, negative in zip(order.prompts, negatives, strict=True)
    )
    return [ImageRow(*row) for row in zip(prompts, seeds, given or [None] * count, strict=True)]


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte {error.start} is 0x{value[error.start]:02x})") from None
