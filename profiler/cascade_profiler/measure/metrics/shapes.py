"""Metrics of the built-in shapes: the checker's scores, and a distance from true images of the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from cascade_api.profile import Metric
from cascade_models.shapes import checker, render

from ..workload import Workload
from .judge import Floats, Images, Verdicts

MEANS: Final = (
    Metric(name="q2", direction="max", meaning="right shapes and relations of a prompt, lowered for surplus shapes"),
    Metric(name="strict", direction="max", meaning="images in which everything is right"),
    Metric(name="adherence", direction="max", meaning="like q2, with partial credit for shapes"),
)
DISTANCE: Final = "fd-layout"
CELLS: Final = 2
"""Number of cells by height and by width; each of up to four shapes has a cell of its own."""
FEATURES: Final = CELLS * CELLS * 3 * 2
REFERENCE_SEED: Final = 20


class ShapesJudge:
    """Measures the checker's scores and ``fd-layout``, a Fréchet distance of each cell's mean and deviation by colour.

    The features show how much of each colour is where, and how sharp it is. They do not show whether that is what the
    prompt asks for, which is what the checker measures.
    """

    identity: str = "shapes-1"
    means: Sequence[Metric] = MEANS
    distances: Sequence[Metric] = (
        Metric(
            name=DISTANCE,
            direction="min",
            meaning=f"Fréchet distance to true images of the same prompts; {FEATURES} features: mean and deviation of "
            f"each colour in {CELLS}x{CELLS} cells, in hundredths of full brightness",
        ),
    )

    def judge(self, images: Images, workload: Workload, start: int) -> Verdicts:
        scores = [checker.check(image, workload.scenes[start + at]) for at, image in enumerate(images)]
        values = {metric.name: np.array([getattr(score, metric.name) for score in scores]) for metric in MEANS}
        return Verdicts(values, {DISTANCE: layout(images)})

    def reference(self, workload: Workload) -> Mapping[str, Floats]:
        rng = np.random.default_rng(REFERENCE_SEED)
        return {DISTANCE: layout(render.to_uint8(render.render(workload.scenes, rng)))}


def layout(images: Images) -> Floats:
    """``[N, 24]``: the mean and the standard deviation of each colour in each cell, 0 to 100."""
    count, height, width, colours = images.shape
    cells = images.reshape(count, CELLS, height // CELLS, CELLS, width // CELLS, colours).astype(np.float64) / 2.55
    parts = (cells.mean(axis=(2, 4)), cells.std(axis=(2, 4)))
    return np.concatenate([part.reshape(count, -1) for part in parts], axis=1)
