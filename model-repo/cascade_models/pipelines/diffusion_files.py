"""The files of a diffusers pipeline that a recipe names: which they are, and in which number format.

Imports nothing heavy, so that they can be fetched where no pipeline can run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cascade_models import layout, weights
from cascade_models.recipe import Recipe, RecipeError

UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that text-to-image does without. What may be asked and shown is for the platform in front to decide."""


@dataclass(frozen=True)
class Parts:
    """The files of a pipeline, all of them here.

    Attributes:
        source: where all but the denoiser's weights are from.
        index: its ``model_index.json``.
        variant: what stands in the names of its weight files, as diffusers calls it.
        weights: its weight files, as paths in the folder.
        denoiser: name of that component.
        denoiser_weights: its file, where it is from another source.
    """

    source: str
    folder: Path
    index: Mapping[str, Any]
    variant: str | None
    weights: Sequence[str]
    denoiser: str
    denoiser_weights: Path | None


def dtype_of(recipe: Recipe, device: str) -> str:
    """Number format on a kind of device: on a CPU anything but float32 is slow, or not there at all."""
    return "float32" if device == "cpu" else recipe.assembly.dtype


def fetch(recipe: Recipe, dtype: str) -> Parts:
    """The files of a recipe's pipeline in that number format, fetched where they are missing.

    Raises WeightsError or RecipeError.
    """
    assembly = recipe.assembly
    source = (assembly.base, assembly.base_revision) if assembly.base else (recipe.source, recipe.revision)
    files = weights.find(*source)
    index = _index(files, source[0])
    components = [
        name for name, part in index.items() if isinstance(part, list) and part[0] is not None and name not in UNUSED
    ]
    denoiser = next((name for name in layout.DENOISERS if name in components), None)
    if denoiser is None:
        raise RecipeError("source", f"{source[0]} has no denoiser (unet or transformer): name a text-to-image model")
    try:
        names = layout.pick(files.names, components, dtype, without=denoiser if assembly.base else "")
    except weights.WeightsError as error:
        raise weights.WeightsError(f"{source[0]}: {error}") from None
    own = None
    if assembly.base:
        name = assembly.denoiser.format(weights=recipe.weights)
        own = weights.find(recipe.source, recipe.revision).folder([name]) / name
    return Parts(
        source=source[0],
        folder=files.folder(names),
        index=index,
        variant=layout.variant_of(names, dtype),
        weights=[name for name in names if name.endswith(weights.SAFETENSORS)],
        denoiser=denoiser,
        denoiser_weights=own,
    )


def _index(files: weights.Files, source: str) -> Mapping[str, Any]:
    if layout.INDEX not in files.names:
        raise RecipeError("source", f"{source} has no {layout.INDEX}: it is not in the diffusers layout")
    content = json.loads((files.folder([layout.INDEX]) / layout.INDEX).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str):
        raise RecipeError("source", f"{source}: {layout.INDEX} names no pipeline class of diffusers")
    return content
