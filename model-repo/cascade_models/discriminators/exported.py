"""Serves discriminators that were trained with this package, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_models import engines
from cascade_models.discriminators import card, pixels, words
from cascade_models.discriminators.judge import DiscriminatorError

INPUTS: Final = ("image", "tokens")

Encode = Callable[[Sequence[str]], npt.NDArray[np.int64]]


class ExportedDiscriminator:
    """A network that takes prepared images and tokens and returns confidences, which are already calibrated."""

    def __init__(self, known: card.Card, encode: Encode, network: engines.Network) -> None:
        self.card = known
        self._encode = encode
        self._network = network

    def confidence(self, images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Confidences ``[N]``; raises ValueError if the images do not have the shape ``[N, height, width, 3]``."""
        known = self.card
        return self._network(pixels.prepare(images, known.size, mean=known.mean, std=known.std), self._encode(prompts))


def load(folder: Path) -> ExportedDiscriminator:
    """The discriminator in a folder, after checking that its files are complete; raises DiscriminatorError."""
    known = card.read(folder)
    try:
        network = engines.load("onnxruntime", folder / card.NETWORK, INPUTS)
    except engines.EngineError as error:
        raise DiscriminatorError(str(error)) from None
    return ExportedDiscriminator(known, encoder(known, folder), network)


def encoder(known: card.Card, folder: Path) -> Encode:
    """The function that converts prompts to the numbers that a discriminator reads; raises DiscriminatorError."""
    if known.reading == "hashed":
        return lambda prompts: words.hashed(prompts, length=known.length)
    try:
        return words.ClipTokens.read(folder, length=known.length).encode
    except (OSError, ValueError) as error:
        raise DiscriminatorError(f"{folder} has no usable vocabulary for prompts: {error}") from None
