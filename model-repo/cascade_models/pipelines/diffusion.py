"""Text-to-image pipelines of diffusers, from the hub (`hf://`) or a folder (`file://`), in the diffusers layout.

This module checks recipes and imports nothing heavy; `diffusion_files` finds what a recipe needs, and `diffusion_run`
has the pipeline itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cascade_models import weights
from cascade_models.engines import EngineError
from cascade_models.recipe import BUILTIN, FILE, HUB, INT8, Recipe, RecipeError, Settings, SettingsSpace, pixels_of

if TYPE_CHECKING:
    from cascade_models.pipelines.diffusion_run import DiffusionPipeline

SCHEMES: Final = (HUB, FILE)
WHICH: Final = "{weights}"
"""Stands in the name of a denoiser's file where a source holds several."""
UNKNOWN: Final = SettingsSpace((4, 8, 12, 16, 20, 28, 40), (None, 1.0))
"""What is tried with a model that is not in the catalogue."""
GRAIN: Final = 8
"""Latents of all public models are at least this much smaller than their images."""


def check(recipe: Recipe) -> None:
    """Raises RecipeError where it can be seen without the weights that the recipe cannot be followed."""
    weights.check(recipe.source, recipe.revision)
    if recipe.assembly.base:
        weights.check(recipe.assembly.base, recipe.assembly.base_revision)
    for adapter in recipe.adapters.values():
        try:
            weights.check(adapter.source, adapter.revision)
        except RecipeError as error:
            raise RecipeError("adapters", f"{adapter.source}: {error}") from None
    if recipe.weights and WHICH not in recipe.assembly.denoiser:
        raise RecipeError("weights", f"{recipe.source} has no named weights: leave it out")
    if recipe.precision == INT8 and recipe.engine == "tensorrt":
        raise RecipeError("precision", "engine tensorrt does not compute in int8: use diffusers, or another precision")
    for index, size in enumerate(recipe.offered):
        for side, pixels in zip(("width", "height"), pixels_of(size), strict=True):
            if pixels % GRAIN:
                raise RecipeError(f"sizes.{index}", f"{size}: the {side} must be a multiple of {GRAIN}, not {pixels}")
    if recipe.discriminator.startswith(BUILTIN):
        raise RecipeError(
            "discriminator",
            f"{recipe.discriminator!r} judges images of {BUILTIN} models only: write {FILE} and the folder of one that "
            f"you trained, or {HUB}owner/name@commit",
        )
    if recipe.discriminator.startswith(HUB):
        name, _, revision = recipe.discriminator.partition("@")
        try:
            weights.check(name, revision)
        except RecipeError as error:
            raise RecipeError("discriminator", f"{error}; the commit stands behind an @") from None


def check_settings(recipe: Recipe, settings: Settings) -> None:
    """Raises RecipeError where the weights cannot draw so."""
    if settings.steps < 1:
        raise RecipeError("steps", f"must be at least 1, not {settings.steps}")
    if settings.guidance_interval:
        raise RecipeError("guidanceInterval", "pipelines of diffusers guide all steps: leave it out")
    if settings.step_cache and recipe.engine != "diffusers":
        raise RecipeError("stepCache", f"engine {recipe.engine} has none: leave it out, or use engine diffusers")
    if settings.step_cache and not settings.saves_steps:
        raise RecipeError("stepCache", f"saves none of {settings.steps} steps: leave it out, or take more steps")
    if recipe.assembly.steps not in (None, settings.steps):
        raise RecipeError("steps", f"weights {recipe.weights} are for {recipe.assembly.steps}, not {settings.steps}")


def settings_space(recipe: Recipe) -> SettingsSpace:
    """The settings that are worth trying with weights of which nothing is known."""
    return UNKNOWN


def load(recipe: Recipe) -> DiffusionPipeline:
    """The pipeline of a checked recipe, after its first images; raises RecipeError, WeightsError or EngineError."""
    try:
        from cascade_models.pipelines import diffusion_run
    except ModuleNotFoundError as missing:
        raise EngineError(
            f"{missing.name} is not installed here, which {recipe.source} needs: "
            "name an environment made from requirements/diffusers.lock in CASCADE_TRITON_ENV"
        ) from None
    return diffusion_run.load(recipe)
