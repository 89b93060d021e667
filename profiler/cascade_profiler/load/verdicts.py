"""Checks how well images fit their prompts, if the prompts are from the grammar of the built-in shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_models.shapes import checker, grammar

SAMPLE: Final = 500
"""The most images that are checked; a check takes a few milliseconds."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """A mean with the half-width of its 95 % interval (normal approximation)."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> ConfidenceInterval:
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
        return cls(mean, 1.96 * math.sqrt(variance / len(values)))


@dataclass(frozen=True)
class Quality:
    """Scores of a uniform sample of the answers."""

    images: int
    q2: ConfidenceInterval
    strict: ConfidenceInterval


class Gallery:
    """A uniform sample, of at most ``size``, of the answered images (reservoir sampling)."""

    def __init__(self, *, rng: random.Random, size: int = SAMPLE) -> None:
        self._rng = rng
        self._size = size
        self._seen = 0
        self._kept: list[tuple[str, npt.NDArray[np.uint8]]] = []

    def add(self, prompt: str, image: npt.NDArray[np.uint8]) -> None:
        """Offer an image to the sample, which takes it with the right probability."""
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append((prompt, image))
            return
        place = self._rng.randrange(self._seen)
        if place < self._size:
            self._kept[place] = (prompt, image)

    def judge(self) -> Quality | None:
        """Check the images of the sample; None if it is empty, or no prompt is from the grammar."""
        scores = []
        for prompt, image in self._kept:
            try:
                scores.append(checker.check(image, grammar.parse(prompt)))
            except ValueError:
                continue
        if not scores:
            return None
        return Quality(
            images=len(scores),
            q2=ConfidenceInterval.of([score.q2 for score in scores]),
            strict=ConfidenceInterval.of([score.strict for score in scores]),
        )
