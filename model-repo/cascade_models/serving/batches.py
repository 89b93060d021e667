"""A batch of requests as denoising runs, one for all that want the same settings; knows nothing of Triton.

A request asks for one or more images (rows). Rows of all requests of a run are made together; a request that is wrong
is answered by its error and a request that is cancelled loses its rows at the next step, without touching the others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_models import pipelines
from cascade_models.pipelines import Pipeline
from cascade_models.recipe import Recipe, RecipeError, Settings
from cascade_models.serving.encoding import Form


@dataclass(frozen=True)
class Order:
    """One request: prompts as bytes, one per image, and what belongs to each; empty tuples where not given.

    Attributes:
        parameters: the request's own: how it is drawn, and in which form it wants files.
        show: is given previews, where the request wants them.
    """

    prompts: Sequence[bytes]
    negative_prompts: Sequence[bytes] = ()
    seeds: Sequence[int] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    confidence: bool = False
    cancelled: Callable[[], bool] = lambda: False
    show: Show | None = None


@dataclass(frozen=True)
class RequestImages:
    """Images ``[n, height, width, 3]`` of a request, with confidences ``[n]`` if it asked for them, and their form.

    Attributes:
        batch: images that were made together, for this request and others.
        batch_s: seconds that they took, judging included.
    """

    images: npt.NDArray[np.uint8]
    confidences: npt.NDArray[np.float32] | None
    form: Form
    batch: int
    batch_s: float


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
    """One image that is to be drawn: what the pipeline takes for it, and its seed."""

    prompt: Any
    seed: int


@dataclass(frozen=True)
class DenoisingRun:
    """Requests that are drawn together, since they want the same settings: rows and forms by the order's place."""

    settings: Settings
    rows: dict[int, Sequence[ImageRow]] = field(default_factory=dict)
    forms: dict[int, Form] = field(default_factory=dict)


def sort(
    pipeline: Pipeline, recipe: Recipe, orders: Sequence[Order]
) -> tuple[dict[int, RequestOutcome], list[DenoisingRun]]:
    """Outcomes of the orders that cannot be followed, by place, and the runs of the others.

    ``recipe`` is that of the pipeline. Runs of few steps come first, so that nobody waits long for what is made soon.
    """
    refused: dict[int, RequestOutcome] = {}
    runs: dict[Settings, DenoisingRun] = {}
    for index, order in enumerate(orders):
        try:
            form, settings = Form.read(order.parameters), _settings(recipe, order)
            rows = _rows(pipeline, order)
        except ValueError as error:
            refused[index] = InvalidRequest(str(error))
        else:
            run = runs.setdefault(settings, DenoisingRun(settings))
            run.rows[index], run.forms[index] = rows, form
    return refused, sorted(runs.values(), key=lambda run: run.settings.steps)


def preview_steps(steps: int) -> frozenset[int]:
    """After which steps (from 0) a stream shows how far it is: a quarter, a half and three quarters of the way."""
    return frozenset(step - 1 for step in (steps // 4, steps // 2, 3 * steps // 4) if 0 < step < steps)


def make(
    pipeline: Pipeline, orders: Sequence[Order], run: DenoisingRun, *, fresh: bool = True
) -> dict[int, RequestOutcome]:
    """The outcome of each order of a run, by its place; those that want previews get them meanwhile.

    Args:
        fresh: the requests have only just arrived, so that none is cancelled yet.
    """
    rows = [(index, row) for index, those in run.rows.items() for row in those]
    asked, live = frozenset(run.rows), set(run.rows)
    places = {index: [at for at, (owner, _) in enumerate(rows) if owner == index] for index in asked}

    def poll(step: int) -> list[bool] | None:
        if step == 0 and fresh:
            return None  # asking costs 0.1 ms per request
        gone = [index for index in live if orders[index].cancelled()]
        live.difference_update(gone)
        return [index in live for index, _ in rows] if gone or len(live) < len(asked) else None

    def preview(step: int, images: Callable[[], npt.NDArray[np.uint8]]) -> None:
        shows = {index: show for index in sorted(live) if (show := orders[index].show) is not None}
        if step in shown_steps and shows:
            whole = images()
            for index, show in shows.items():
                made = whole[places[index]]
                show(RequestImages(made, None, run.forms[index], len(rows), time.perf_counter() - began))

    began = time.perf_counter()
    shown = any(orders[index].show is not None for index in asked)
    shown_steps = preview_steps(run.settings.steps) if shown else frozenset[int]()
    prompts, seeds = [row.prompt for _, row in rows], [row.seed for _, row in rows]
    images = pipeline.generate(prompts, seeds, run.settings, poll, preview if shown_steps else None)
    judged = [at for at, (index, _) in enumerate(rows) if index in live and orders[index].confidence]
    confidences = np.zeros(len(rows), dtype=np.float32)
    if judged:
        confidences[judged] = pipeline.judge(images[judged], [prompts[at] for at in judged])
    outcomes: dict[int, RequestOutcome] = {}
    batch_s = time.perf_counter() - began
    for index, mine in places.items():
        if index in live:
            scores = confidences[mine] if orders[index].confidence else None
            outcomes[index] = RequestImages(images[mine], scores, run.forms[index], len(rows), batch_s)
        else:
            outcomes[index] = CancelledRequest()
    return outcomes


def _settings(recipe: Recipe, order: Order) -> Settings:
    """How a request wants to be drawn; raises ValueError naming the parameter."""
    settings = Settings.read(order.parameters, recipe.default)
    try:
        pipelines.check_settings(recipe, settings)
    except RecipeError as error:
        raise ValueError(f"{error.key}: {error}") from None
    return settings


def _rows(pipeline: Pipeline, order: Order) -> list[ImageRow]:
    """The images that a request asks for; raises ValueError naming the input."""
    count = len(order.prompts)
    negatives = order.negative_prompts or [b""] * count
    seeds = order.seeds or [secrets.randbits(63) for _ in range(count)]
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seed: {seed} is below zero; send 0 to 2**63-1, or none for a random one")
    prompts = (
        pipeline.read(_text(prompt, "prompt"), _text(negative, "negative_prompt"))
        for prompt, negative in zip(order.prompts, negatives, strict=True)
    )
    return [ImageRow(*row) for row in zip(prompts, seeds, strict=True)]


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte {error.start} is 0x{value[error.start]:02x})") from None
