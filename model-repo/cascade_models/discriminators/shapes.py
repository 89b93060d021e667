"""The built-in discriminator for images and prompts of the shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cascade_models import engines
from cascade_models.discriminators.judge import DiscriminatorError
from cascade_models.shapes import assets, grammar, sampling, tokens

INPUTS = ("image", "tokens")


class ShapesDiscriminator:
    """Judges whether everything in an image of shapes is as the prompt asks."""

    def __init__(self, network: engines.Network) -> None:
        self._network = network

    def confidence(self, images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Confidences ``[N]``; raises ValueError (grammar.PromptError) for a prompt outside the grammar."""
        words = tokens.encode_all([grammar.parse(prompt) for prompt in prompts])
        return self._network(sampling.from_image(images), words)


def load() -> ShapesDiscriminator:
    """The discriminator with the shipped weights, on ONNX Runtime; raises DiscriminatorError."""
    try:
        return ShapesDiscriminator(engines.load("onnxruntime", assets.path("discriminator"), INPUTS))
    except (assets.AssetError, engines.EngineError) as error:
        raise DiscriminatorError(str(error)) from None
