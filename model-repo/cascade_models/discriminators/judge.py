"""The interface of discriminators, and their error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class DiscriminatorError(RuntimeError):
    """A discriminator cannot be loaded, or cannot judge its input; the message says why and what to do."""


class LoadedDiscriminator(Protocol):
    """A loaded discriminator. It is deterministic, but not thread-safe."""

    def confidence(self, images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Confidences ``[N]``, 0 to 1, for images ``[N, height, width, 3]`` and their prompts.

        Raises ValueError if images have another shape or a prompt cannot be read.
        """
