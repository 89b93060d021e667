"""Discriminators that were trained with this package, served on ONNX Runtime."""

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
    """A network with the calibration inside: prepared images and tokens in, confidences out."""

    def __init__(self, known: card.Card, encode: Encode, network: engines.Network) -> None:
        self.card = known
        self._encode = encode
        self._network = network

    def confidence(self, images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """``[N]``; raises ValueError for images of another shape than ``[N, height, width, 3]``."""
        known = self.card
        return self._network(pixels.prepare(images, known.size, mean=known.mean, std=known.std), self._encode(prompts))


def load(folder: Path) -> ExportedDiscriminator:
    """The discriminator in a folder, checked to be whole; raises DiscriminatorError."""
    known = card.read(folder)
    try:
        network = engines.load("onnxruntime", folder / card.NETWORK, INPUTS)
    except engines.EngineError as error:
        raise DiscriminatorError(str(error)) from None
    return ExportedDiscriminator(known, encoder(known, folder), network)


def encoder(known: card.Card, folder: Path) -> Encode:
    """What turns prompts into the numbers that a discriminator reads; raises DiscriminatorError."""
    if known.reading == "hashed":
        return lambda prompts: words.hashed(prompts, length=known.length)
    try:
        return words.ClipTokens.read(folder, length=known.length).encode
    except (OSError, ValueError) as error:
        raise DiscriminatorError(f"{folder} has no tokens to read prompts with: {error}") from None
