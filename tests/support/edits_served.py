"""Edits given images with pipelines of random weights, and prints what came out as JSON.

It runs in .venv-diffusers. Arguments: a folder to work in, and classes of the catalogue.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pipelines_served
import tiny_pipelines

from cascade_models import catalogue, pipelines
from cascade_models.pipelines.pipeline import Given
from cascade_models.recipe import RecipeError

apart, PROMPTS, SEEDS, SIDE = pipelines_served.apart, pipelines_served.PROMPTS, pipelines_served.SEEDS, 32


def edited(name: str, scratch: Path) -> dict[str, Any] | str:
    """What came out of one class, or why it cannot edit."""
    tiny_pipelines.write(name, scratch / name)
    entry = next(each for each in catalogue.entries().values() if each.assembly.pipeline == name)
    recipe = dataclasses.replace(pipelines_served.recipe_of(entry, scratch / name), edits=True)
    try:
        pipeline = pipelines.load(recipe)
    except RecipeError as error:
        return f"{error.key}: {error}"
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[:, SIDE // 2 :] = True
    polled: list[int] = []

    def edit(images: Any, *, strength: float, mask: Any = None, count: int = 2, poll: Any = None) -> Any:
        settings = dataclasses.replace(recipe.default, strength=strength, masked=mask is not None)
        given = [Given(image, mask) for image in images[:count]]
        return pipeline.generate(PROMPTS[:count], SEEDS[:count], settings, poll, given=given)

    plain = pipeline.generate(PROMPTS, SEEDS, recipe.default, None)
    whole = edit(images, strength=0.5, poll=polled.append)
    half = edit(images, strength=0.5, mask=mask)
    return {
        "of another image": apart(whole, edit(images[::-1].copy(), strength=0.5)),
        "alone": apart(whole[:1], edit(images, strength=0.5, count=1)),
        "masked alone": apart(half[:1], edit(images, strength=0.5, mask=mask, count=1)),
        "kept": apart(half[:, :, : SIDE // 2], images[:, :, : SIDE // 2]),
        "drawn anew": apart(half[:, :, SIDE // 2 :], images[:, :, SIDE // 2 :]),
        "plain again": apart(plain, pipeline.generate(PROMPTS, SEEDS, recipe.default, None)),
        "steps": len(polled),
    }


if __name__ == "__main__":
    print(json.dumps({name: edited(name, Path(sys.argv[1])) for name in sys.argv[2:]}))
