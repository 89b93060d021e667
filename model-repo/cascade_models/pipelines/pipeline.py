"""What every pipeline is: it reads a prompt, draws images from seeds, and judges them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cascade_models.recipe import Recipe, Settings

Poll = Callable[[int], Sequence[bool] | None]
"""Asked before every denoising step, by its index, which images are still wanted; None: all of them.

It may draw other images with the same pipeline before it returns."""

Preview = Callable[[int, Callable[[], npt.NDArray[np.uint8]]], None]
"""Told after every denoising step but the last its index, and what shows the images as far as they are."""


@dataclass(frozen=True, eq=False)
class Given:
    """An image ``[height, width, 3]`` from which another one is drawn, and where; without a mask, everywhere."""

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_] | None = None


def kept(images: npt.NDArray[np.uint8], given: Sequence[Given]) -> npt.NDArray[np.uint8]:
    """The images with the pixels of the given ones wherever those are to be kept."""
    return np.stack(
        [
            image if each.mask is None else np.where(each.mask[..., None], image, each.image)
            for image, each in zip(images, given, strict=True)
        ]
    )


class AdapterError(ValueError):
    """Images cannot be drawn with an adapter; the message is for the client, and names the parameter."""


class Pipeline(Protocol):
    """Loaded weights with their discriminator; not thread-safe. In ``poll``, `generate` may be called again."""

    def read(self, prompt: str, negative_prompt: str) -> Any:
        """What `generate` and `judge` take for a prompt; raises ValueError with a message for the user."""

    def tokens(self, prompt: Any) -> tuple[int, int]:
        """How many tokens a prompt has, as `read` gave it, and how many of them are read; the rest is cut."""

    def follow(self, recipe: Recipe) -> None:
        """Offer the adapters of another recipe of the same weights, fetched where they are missing; thread-safe.

        What is wrong with one is said when a request names it, and in the log.
        """

    def check_adapter(self, lora: str) -> None:
        """Raises AdapterError unless there is an adapter of this digest, and nothing is known to be wrong with it."""

    def generate(
        self,
        prompts: Sequence[Any],
        seeds: Sequence[int],
        settings: Settings,
        poll: Poll | None,
        preview: Preview | None = None,
        given: Sequence[Given] = (),
    ) -> npt.NDArray[np.uint8]:
        """Images ``[B, height, width, 3]``, each from its own seed alone (0 to 2**63-1).

        With ``given``, one for each, they are drawn from those on, by the strength of the settings. Pixels outside of
        a mask are those of the given image, exactly.

        Those that ``poll`` gives up are black; where it gives up all, there are none to wait for and all are black.
        Raises engines.OutOfMemory where the batch does not fit, and AdapterError where the adapter does not fit.
        """

    def judge(self, images: npt.NDArray[np.uint8], prompts: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Confidence ``[B]``, 0 to 1, that each image shows what its prompt asks for; 1 where nothing judges."""
