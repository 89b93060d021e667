"""The built-in shapes models as a pipeline: ``builtin://shapes``, weights ``heavy`` or ``light``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from cascade_models import engines
from cascade_models.pipelines.pipeline import AdapterError, Given, kept
from cascade_models.recipe import INT8, Recipe, RecipeError, Settings, SettingsSpace
from cascade_models.shapes import assets, grammar, render, sampling, tokens

if TYPE_CHECKING:
    from cascade_models.pipelines.pipeline import Poll, Preview

WEIGHTS: Final[dict[str, sampling.Kind]] = {"heavy": "heavy", "light": "light"}
TRAINED: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(WEIGHTS, (f"{render.IMAGE_SIZE}x{render.IMAGE_SIZE}",))
"""The sizes of images for which each weights were trained."""
SPACES: Final[dict[str, SettingsSpace]] = {
    "heavy": SettingsSpace((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24), (1.0, 1.5, None, 3.0)),
    "light": SettingsSpace(tuple(sampling.LIGHT_TIMES)),
}
DENOISER_INPUTS: Final = ("x", "t", "tokens")
DISCRIMINATOR_INPUTS: Final = ("image", "tokens")


class ShapesPipeline:
    """Weights of the shapes models, and the shapes discriminator."""

    def __init__(self, recipe: Recipe) -> None:
        self._kind = WEIGHTS[recipe.weights]
        self._guidance = assets.metadata().variants[self._kind].guidance
        form: assets.Format = assets.QUANTISED if recipe.precision == INT8 else "onnx"
        self._denoise = engines.load(recipe.engine, assets.path(self._kind, form), DENOISER_INPUTS)
        self._judge = (
            engines.load(recipe.engine, assets.path("discriminator"), DISCRIMINATOR_INPUTS)
            if recipe.discriminator
            else None
        )

    def read(self, prompt: str, negative_prompt: str) -> npt.NDArray[np.int64]:
        """Tokens ``[7, 3]`` of a prompt; raises ValueError for one outside the grammar or a negative prompt."""
        if negative_prompt:
            raise ValueError("negative_prompt: the shapes models take none; leave it out")
        try:
            return tokens.encode(grammar.parse(prompt))
        except grammar.PromptError as error:
            raise ValueError(f"prompt: {error}") from None

    def tokens(self, prompt: npt.NDArray[np.int64]) -> tuple[int, int]:
        """The words of the scene that the networks are told; nothing is cut, since longer prompts are refused."""
        words = int(np.count_nonzero(prompt != tokens.BLANK))
        return words, words

    def follow(self, recipe: Recipe) -> None:
        """Nothing changes: built-in models have no adapters."""

    def check_adapter(self, lora: str) -> None:
        """Raises AdapterError."""
        raise AdapterError("lora: built-in models take no adapters; leave it out")

    def generate(
        self,
        prompts: Sequence[npt.NDArray[np.int64]],
        seeds: Sequence[int],
        settings: Settings,
        poll: Poll | None,
        preview: Preview | None = None,
        given: Sequence[Given] = (),
    ) -> npt.NDArray[np.uint8]:
        """Images ``[B, 32, 32, 3]``."""
        masks = [each.mask for each in given if each.mask is not None]
        try:
            images = sampling.generate(
                self._denoise,
                np.stack(prompts),
                seeds,
                kind=self._kind,
                steps=settings.steps,
                guidance=self._guidance if settings.guidance is None else settings.guidance,
                guides=settings.guides,
                poll=poll,
                preview=None if preview is None else lambda step, images: preview(step, lambda: images),
                given=sampling.from_given(np.stack([each.image for each in given])) if given else None,
                masks=np.stack(masks)[:, None].astype(np.float32) if masks else None,
                strength=settings.strength or 1.0,
            )
        except sampling.BatchCancelled:
            return np.zeros((len(prompts), render.IMAGE_SIZE, render.IMAGE_SIZE, 3), dtype=np.uint8)
        return kept(images, given) if given else images

    def judge(self, images: npt.NDArray[np.uint8], prompts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        """Confidence ``[B]`` that each image is right in everything; 1 where there is no discriminator."""
        if self._judge is None:
            return np.ones(len(images), dtype=np.float32)
        return self._judge(sampling.from_image(images), np.stack(prompts))


def check(recipe: Recipe) -> None:
    """Raises RecipeError unless the weights are here, whole, of this revision, and can be run as asked."""
    if recipe.weights not in WEIGHTS:
        raise RecipeError("weights", f"{recipe.weights!r} is not a shapes model: write {' or '.join(WEIGHTS)}")
    if recipe.engine not in engines.that_load():
        known = " or ".join(engines.that_load())
        raise RecipeError("engine", f"{recipe.engine!r} cannot run {recipe.source}: write {known}")
    trained = TRAINED[recipe.weights]
    for index, size in enumerate(recipe.offered):
        if size not in trained:
            raise RecipeError(
                f"sizes.{index}",
                f"{size}: weights {recipe.weights} of {recipe.source} were trained for {', '.join(trained)} only: "
                f"write {' or '.join(trained)}",
            )
    if recipe.assembly.dtype != "float32":
        raise RecipeError("precision", f"{recipe.source} computes in fp32 or int8: write one of these")
    try:
        assets.metadata()
        here = assets.revision()
    except assets.AssetError as error:
        raise RecipeError("weights", str(error)) from None
    if recipe.revision != here:
        raise RecipeError(
            "revision", f"the weights here are revision {here}, not {recipe.revision}: write that revision instead"
        )


def check_settings(recipe: Recipe, settings: Settings) -> None:
    """Raises RecipeError where the weights cannot draw so."""
    if settings.step_cache:
        raise RecipeError("stepCache", f"{recipe.source} has none: leave it out, and take fewer steps to save time")
    if settings.guidance_interval and WEIGHTS[recipe.weights] == "light":
        raise RecipeError("guidanceInterval", "the light weights have their guidance built in: leave it out")
    if settings.guidance_interval and not settings.guided_steps:
        raise RecipeError("guidanceInterval", f"guides none of {settings.steps} steps: write a longer one")
    if settings.guidance is not None and WEIGHTS[recipe.weights] == "light":
        raise RecipeError("guidance", "the light weights have theirs built in: leave it out")
    try:
        sampling.step_times(WEIGHTS[recipe.weights], settings.steps)
    except ValueError as error:
        raise RecipeError("steps", str(error)) from None


def settings_space(recipe: Recipe) -> SettingsSpace:
    """The settings that are worth trying with these weights."""
    return SPACES[recipe.weights]


def load(recipe: Recipe) -> ShapesPipeline:
    """The pipeline of a checked recipe, after one image: the first run of a network allocates its memory."""
    pipeline = ShapesPipeline(recipe)
    example = pipeline.read(grammar.EXAMPLE, "")
    calls = iter((True, False))
    pipeline.judge(pipeline.generate([example], [0], recipe.default, lambda _: [next(calls, False)]), [example])
    return pipeline


def revision() -> str:
    """Revision of the weights that are here; raises AssetError (a RuntimeError) where they are missing."""
    return assets.revision()
