"""What every discriminator is, and the error of one that cannot judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class DiscriminatorError(RuntimeError):
    """A discriminator cannot be loaded, or cannot judge what it was given; the message says why and what to do."""


class LoadedDiscriminator(Protocol):
    """A loaded discriminator; deterministic, not thread-safe."""

    def confidence(self, images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """``[N]`` confidences, 0 to 1, of images ``[N, height, width, 3]`` and their prompts.

        Raises ValueError for images of another shape or a prompt that it cannot read.
        """
