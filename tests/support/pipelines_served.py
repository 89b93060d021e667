"""Serves each pipeline class of the catalogue with random weights, and prints what came out as JSON.

It runs in .venv-diffusers. Arguments: a folder to work in, and the classes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiny_pipelines

from cascade_models import catalogue, pipelines, weights
from cascade_models.pipelines import diffusion_run
from cascade_models.recipe import Recipe, RecipeError, Settings

STEPS = 4
CACHED_STEPS = 12
PROMPTS = [("a red circle", ""), ("two blue squares on a table", "")]
SEEDS = [7, 8]
SIDE = 32

Images = npt.NDArray[np.uint8]


def recipe_of(entry: catalogue.CatalogueEntry, folder: Path) -> Recipe:
    """The recipe of a variant in the catalogue, for the tiny weights in a folder."""
    name = entry.assembly.pipeline
    arguments = {**entry.assembly.arguments, **({"use_resolution_binning": False} if name.startswith("Sana") else {})}
    assembly = dataclasses.replace(entry.assembly, base="", base_revision="", denoiser="", arguments=arguments)
    # Its scheduler knows no other number of steps than two without a list of times.
    settings = Settings(2 if name == "SanaSprintPipeline" else STEPS, assembly.guidance)
    return Recipe(
        source=f"file://{folder}", revision=weights.revision_of(folder), weights="", engine="diffusers", precision="",
        height=SIDE, width=SIDE, discriminator="", batch=4, settings={name: settings}, assembly=assembly,
    )  # fmt: skip


def apart(one: Images, other: Images) -> int:
    """The largest difference of any value of two images, in levels of 255."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def served(name: str, scratch: Path) -> dict[str, Any]:
    """What came out of one class."""
    folder = scratch / name
    tiny_pipelines.write(name, folder)
    entry = next(each for each in catalogue.entries().values() if each.assembly.pipeline == name)
    recipe = recipe_of(entry, folder)
    began = time.monotonic()
    pipeline = pipelines.load(recipe)
    settings = recipe.default
    together = pipeline.generate(PROMPTS, SEEDS, settings, None)
    alone = [
        pipeline.generate([prompt], [seed], settings, None)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    previews: list[Images] = []
    overtaking: list[Images] = []

    def overtaken(step: int) -> list[bool] | None:
        if step == 1:
            overtaking.append(pipeline.generate(PROMPTS[1:], SEEDS[1:], settings, None)[0])
        return None

    watched = pipeline.generate(
        PROMPTS[:1], SEEDS[:1], settings, overtaken, lambda _, show: previews.append(show()[0])
    )[0]
    stronger = dataclasses.replace(settings, guidance=2 * (recipe.assembly.guidance or 1) + 1)
    guided = pipeline.generate(PROMPTS[:1], SEEDS[:1], stronger, None)[0]
    return {
        "deviation": float(together.std()),
        "between seeds": apart(together[0], together[1]),
        "alone": max(apart(image, one) for image, one in zip(together, alone, strict=True)),
        "watched": apart(watched, alone[0]),
        "overtaking": apart(overtaking[0], alone[1]),
        "previews": [float(np.abs(preview.astype(int) - watched).mean()) for preview in previews],
        "guided": apart(guided, alone[0]),
        "exported": exported(recipe, alone[0]) if "onnxruntime" in entry.engines else None,
        "int8": {
            engine: quantised(dataclasses.replace(recipe, engine=engine, precision="int8"), together)
            for engine in ("diffusers", "onnxruntime")
            if engine in entry.engines
        },
        "step caches": {
            cache: cached(pipeline, recipe, cache) for cache in ("first-block:0.001", "first-block:9", "taylor-seer:4")
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def cached(pipeline: pipelines.Pipeline, recipe: Recipe, step_cache: str) -> dict[str, Any] | str:
    """How far an image with a step cache is from the plain one, and what becomes of runs beside it; or the refusal."""
    plain = dataclasses.replace(recipe.default, steps=CACHED_STEPS)
    settings = dataclasses.replace(plain, step_cache=step_cache)
    if recipe.assembly.pipeline == "SanaSprintPipeline":
        settings = dataclasses.replace(settings, steps=2)
    try:
        diffusion_run.prove_step_caches(pipeline, dataclasses.replace(recipe, settings={"cached": settings}))
    except RecipeError as error:
        return f"{error.key}: {error}"
    before = pipeline.generate(PROMPTS, SEEDS, plain, None)
    image = pipeline.generate(PROMPTS, SEEDS, settings, None)
    beside: dict[str, Images] = {}

    def overtaken(step: int) -> list[bool] | None:
        if step == CACHED_STEPS // 2 and not beside:
            beside["plain"] = pipeline.generate(PROMPTS, SEEDS, plain, None)
            beside["cached"] = pipeline.generate(PROMPTS[::-1], SEEDS[::-1], settings, None)[::-1]
        return None

    watched = pipeline.generate(PROMPTS, SEEDS, settings, overtaken)
    return {
        "mean": float(np.abs(image.astype(int) - before).mean()),
        "largest": apart(image, before),
        "again": apart(image, pipeline.generate(PROMPTS, SEEDS, settings, None)),
        "overtaken": apart(image, watched),
        "cached beside": apart(image, beside["cached"]),
        "plain beside": apart(before, beside["plain"]),
    }


def quantised(recipe: Recipe, wanted: Images) -> float:
    """How far images in int8 are from the whole ones, in the mean."""
    pipeline = pipelines.load(recipe)
    return float(np.abs(pipeline.generate(PROMPTS, SEEDS, recipe.default, None).astype(int) - wanted).mean())


def exported(recipe: Recipe, wanted: Images) -> int:
    """How far an image by ONNX Runtime is from torch's."""
    pipeline = pipelines.load(dataclasses.replace(recipe, engine="onnxruntime"))
    return apart(pipeline.generate(PROMPTS[:1], SEEDS[:1], recipe.default, None)[0], wanted)


if __name__ == "__main__":
    print(json.dumps({name: served(name, Path(sys.argv[1])) for name in sys.argv[2:]}))
