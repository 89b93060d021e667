"""One batch of requests as one denoising run; knows nothing of Triton, so that tests and the profiler can run it.

A request asks for one or more images (rows). Rows of all requests are made together; a request that is wrong is
answered by its error and a request that is cancelled loses its rows at the next step, without touching the others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_models.pipelines import Pipeline
from cascade_models.serving.encoding import Form


@dataclass(frozen=True)
class Order:
    """One request: prompts as bytes, one per image, and what belongs to each; empty tuples where not given.

    Attributes:
        parameters: the request's own, of which some say in which form it wants files.
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
class _Row:
    order: int
    prompt: Any
    seed: int


def run(pipeline: Pipeline, orders: Sequence[Order], *, shown_steps: Collection[int] = ()) -> list[RequestOutcome]:
    """The outcome of each order, in order; those that want previews get them after ``shown_steps``."""
    outcomes: dict[int, RequestOutcome] = {}
    rows: list[_Row] = []
    forms: dict[int, Form] = {}
    for index, order in enumerate(orders):
        try:
            forms[index] = Form.read(order.parameters)
            rows.extend(_Row(index, prompt, seed) for prompt, seed in _read(pipeline, order))
        except ValueError as error:
            outcomes[index] = InvalidRequest(str(error))
    if rows:
        outcomes |= _make(pipeline, orders, rows, forms, shown_steps)
    return [outcomes[index] for index in range(len(orders))]


def _make(
    pipeline: Pipeline,
    orders: Sequence[Order],
    rows: Sequence[_Row],
    forms: Mapping[int, Form],
    shown_steps: Collection[int],
) -> dict[int, RequestOutcome]:
    live = {row.order for row in rows}

    def poll(step: int) -> list[bool] | None:
        if step == 0:
            return None  # asking costs 0.1 ms per request, and these have only just arrived
        gone = [index for index in live if orders[index].cancelled()]
        live.difference_update(gone)
        return [row.order in live for row in rows] if gone or len(live) < len(asked) else None

    def preview(step: int, images: Callable[[], npt.NDArray[np.uint8]]) -> None:
        shows = {index: show for index in sorted(live) if (show := orders[index].show) is not None}
        if step in shown_steps and shows:
            whole = images()
            for index, show in shows.items():
                mine = [at for at, row in enumerate(rows) if row.order == index]
                show(RequestImages(whole[mine], None, forms[index], len(rows), time.perf_counter() - began))

    asked, began = frozenset(live), time.perf_counter()
    prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
    images = pipeline.generate(prompts, seeds, poll, preview if shown_steps else None)
    judged = [at for at, row in enumerate(rows) if row.order in live and orders[row.order].confidence]
    confidences = np.zeros(len(rows), dtype=np.float32)
    if judged:
        confidences[judged] = pipeline.judge(images[judged], [rows[at].prompt for at in judged])
    outcomes: dict[int, RequestOutcome] = {}
    batch_s = time.perf_counter() - began
    for index in asked:
        mine = [at for at, row in enumerate(rows) if row.order == index]
        if index in live:
            scores = confidences[mine] if orders[index].confidence else None
            outcomes[index] = RequestImages(images[mine], scores, forms[index], len(rows), batch_s)
        else:
            outcomes[index] = CancelledRequest()
    return outcomes


def _read(pipeline: Pipeline, order: Order) -> list[tuple[Any, int]]:
    """What the pipeline takes for each image, and its seed; raises ValueError naming the input."""
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
    return list(zip(prompts, seeds, strict=True))


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte {error.start} is 0x{value[error.start]:02x})") from None
