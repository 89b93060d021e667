"""What turns prompts into images and judges them: one module per model family behind the `Pipeline` protocol.

A pipeline knows its family's prompts, sampler and networks; engines know how to run a network; serving knows Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from cascade_models.engines import ENGINES
from cascade_models.pipelines import diffusion, shapes
from cascade_models.recipe import BUILTIN, Recipe, RecipeError

Poll = Callable[[int], Sequence[bool] | None]
"""Asked before every denoising step, by its index, which images are still wanted; None: all of them."""

Preview = Callable[[int, Callable[[], npt.NDArray[np.uint8]]], None]
"""Told after every denoising step but the last its index, and what shows the images as far as they are."""

FAMILIES: Final[dict[str, ModuleType]] = {"shapes": shapes}
"""The built-in models by the name in ``builtin://NAME``."""


class Pipeline(Protocol):
    """A loaded variant with its discriminator; not thread-safe."""

    def read(self, prompt: str, negative_prompt: str) -> Any:
        """What `generate` and `judge` take for a prompt; raises ValueError with a message for the user."""

    def generate(
        self, prompts: Sequence[Any], seeds: Sequence[int], poll: Poll | None, preview: Preview | None = None
    ) -> npt.NDArray[np.uint8]:
        """Images ``[B, height, width, 3]``, each from its own seed alone (0 to 2**63-1).

        Those that ``poll`` gives up are black; where it gives up all, there are none to wait for and all are black.
        Raises engines.OutOfMemory where the batch does not fit.
        """

    def judge(self, images: npt.NDArray[np.uint8], prompts: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Confidence ``[B]``, 0 to 1, that each image shows what its prompt asks for."""


def check(recipe: Recipe) -> None:
    """Raises RecipeError unless a variant with this recipe can be loaded here; loads nothing."""
    if recipe.engine not in ENGINES:
        raise RecipeError("engine", f"{recipe.engine!r} is not an engine: write one of {', '.join(ENGINES)}")
    _family(recipe).check(recipe)


def load(recipe: Recipe) -> Pipeline:
    """The pipeline of a recipe, warmed up; raises RecipeError or EngineError."""
    check(recipe)
    return cast(Pipeline, _family(recipe).load(recipe))


def _family(recipe: Recipe) -> ModuleType:
    if recipe.source.startswith(diffusion.SCHEMES):
        return diffusion
    known = ", ".join(f"{BUILTIN}{name}" for name in FAMILIES)
    for key, source in (("source", recipe.source), ("discriminator", recipe.discriminator)):
        if source.removeprefix(BUILTIN) not in FAMILIES:
            raise RecipeError(key, f"no built-in model {source!r}: write one of {known}, or hf://owner/name")
    if recipe.discriminator != recipe.source:
        raise RecipeError("discriminator", f"{recipe.discriminator!r} cannot judge images of {recipe.source!r}")
    return FAMILIES[recipe.source.removeprefix(BUILTIN)]
