"""What turns prompts into images and judges them: one module per model family behind the `Pipeline` protocol.

A pipeline knows its family's prompts, sampler and networks; engines know how to run a network; serving knows Triton.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final, cast

from cascade_models.engines import ENGINES
from cascade_models.pipelines import diffusion, shapes
from cascade_models.pipelines.pipeline import Pipeline
from cascade_models.recipe import BUILTIN, Recipe, RecipeError, Settings, SettingsSpace

__all__ = ["FAMILIES", "Pipeline", "check", "check_settings", "load", "settings_space"]

FAMILIES: Final[dict[str, ModuleType]] = {"shapes": shapes}
"""The built-in models by the name in ``builtin://NAME``."""


def check(recipe: Recipe) -> None:
    """Raises RecipeError unless weights with this recipe can be loaded here; loads nothing."""
    if recipe.engine not in ENGINES:
        raise RecipeError("engine", f"{recipe.engine!r} is not an engine: write one of {', '.join(ENGINES)}")
    if recipe.adapters and recipe.source.startswith(BUILTIN):
        raise RecipeError("adapters", f"{recipe.source} takes none: remove them")
    if recipe.adapters and recipe.engine != "diffusers":
        raise RecipeError("adapters", f"engine {recipe.engine} cannot apply them: use engine diffusers, or remove them")
    if len(recipe.offered) > 1 and recipe.engine != "diffusers" and not recipe.source.startswith(BUILTIN):
        raise RecipeError("sizes", f"engine {recipe.engine} is built for one size: use engine diffusers, or offer one")
    _family(recipe).check(recipe)


def check_settings(recipe: Recipe, settings: Settings) -> None:
    """Raises RecipeError, whose key is a setting, where checked weights cannot draw so."""
    if settings.size and settings.size not in recipe.offered:
        raise RecipeError("size", f"{settings.size:.20} is not offered: write one of {', '.join(recipe.offered)}")
    _family(recipe).check_settings(recipe, settings)


def settings_space(recipe: Recipe) -> SettingsSpace:
    """The settings that are worth trying with checked weights, if neither a person nor the catalogue names others."""
    return cast(SettingsSpace, _family(recipe).settings_space(recipe))


def load(recipe: Recipe) -> Pipeline:
    """The pipeline of a recipe, warmed up; raises RecipeError or EngineError."""
    check(recipe)
    return cast(Pipeline, _family(recipe).load(recipe))


def _family(recipe: Recipe) -> ModuleType:
    if recipe.source.startswith(diffusion.SCHEMES):
        return diffusion
    known = ", ".join(f"{BUILTIN}{name}" for name in FAMILIES)
    for key, source in (("source", recipe.source), ("discriminator", recipe.discriminator or recipe.source)):
        if source.removeprefix(BUILTIN) not in FAMILIES:
            raise RecipeError(key, f"no built-in model {source!r}: write one of {known}, or hf://owner/name")
    if recipe.discriminator not in ("", recipe.source):
        raise RecipeError("discriminator", f"{recipe.discriminator!r} cannot judge images of {recipe.source!r}")
    return FAMILIES[recipe.source.removeprefix(BUILTIN)]
