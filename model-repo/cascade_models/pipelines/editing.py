"""The pipelines with which diffusers changes given images; they share all networks with the one that draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
from PIL import Image

from cascade_models.pipelines.pipeline import Given
from cascade_models.recipe import RecipeError, Settings


def editors(pipe: Any) -> dict[bool, Any]:
    """The pipelines for images without and with a mask; raises RecipeError if diffusers does not have both."""
    found = {}
    kinds = {"image-to-image": diffusers.AutoPipelineForImage2Image, "inpainting": diffusers.AutoPipelineForInpainting}
    for masked, (task, kind) in enumerate(kinds.items()):
        try:
            editor = kind.from_pipe(pipe)
        except ValueError:
            raise RecipeError(
                "edits", f"diffusers {diffusers.__version__} has no {task} for {type(pipe).__name__}: leave it out"
            ) from None
        editor.set_progress_bar_config(disable=True)
        found[bool(masked)] = editor
    return found


def arguments(given: Sequence[Given], settings: Settings) -> dict[str, Any]:
    """What a pipeline is told of the given images. At least one step is made, however low the strength."""
    least = (1 + 1e-6) / settings.steps
    told: dict[str, Any] = {
        "image": [Image.fromarray(each.image) for each in given],
        "strength": min(1.0, max(settings.strength or 1.0, least)),
    }
    if settings.masked:
        told["mask_image"] = [Image.fromarray(each.mask) for each in given if each.mask is not None]
    return told
