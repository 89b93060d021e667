"""Models for a real Triton that paint noise of any size: they use the serving package, but no networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from cascade_models.manifest import read_variants
from cascade_models.recipe import Settings
from cascade_models.repository import config, recipe_of

from .triton import TritonServer, shapes_manifest

MODEL: Final = '''
"""Draws an image of noise from its seed, after steps that take their time; thirteen steps are too much for it."""

import time

import numpy as np

from cascade_models import pipelines
from cascade_models.engines import OutOfMemory
from cascade_models.serving.model import TritonPythonModel

STEP_S = 0.005


class Painter:
    def __init__(self, recipe):
        self._recipe = recipe

    def read(self, prompt, negative_prompt):
        return prompt

    def tokens(self, prompt):
        return (len(prompt), len(prompt))

    def generate(self, prompts, seeds, settings, poll, preview=None, given=()):
        size = (*reversed(self._recipe.pixels(settings)), 3)
        images = np.stack([np.random.default_rng(seed).integers(0, 256, size, np.uint8) for seed in seeds])
        for step in range(settings.steps):
            wanted = poll(step) if poll else None
            if wanted and not any(wanted):
                break
            time.sleep(STEP_S)
            if settings.steps == 13:
                raise OutOfMemory(f"out of memory at batch size {len(prompts)}")
            if preview is not None and step < settings.steps - 1:
                preview(step, lambda: images)
        return images

    def follow(self, recipe):
        pass

    def judge(self, images, prompts):
        return np.full(len(images), 0.5, np.float32)


pipelines.load = Painter
__all__ = ["TritonPythonModel"]
'''


def write_painter(
    directory: Path,
    name: str,
    *,
    side: int,
    steps: int = 4,
    batch: int = 4,
    previews: bool = False,
    sizes: Sequence[str] = (),
) -> None:
    """A model of a repository whose images have ``side`` x ``side`` pixels, or one of several ``sizes``."""
    heavy = read_variants(shapes_manifest())[1]
    recipe = replace(
        recipe_of([heavy]), height=side, width=side, sizes=tuple(sizes), batch=batch, settings={name: Settings(steps)}
    )
    folder = directory / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder.parent / "config.pbtxt").write_text(config(name, recipe, previews=previews))


@pytest.fixture
def painting_triton(tmp_path: Path) -> Iterator[TritonServer]:
    """A server of our own: `small` (32²), `slow` (32², two seconds), `large` (1024²), `stream` (512², previews),
    `sized` (32x32 and 64x32, half a second)."""
    models = tmp_path / "painters"
    write_painter(models, "small", side=32)
    write_painter(models, "slow", side=32, steps=400)
    write_painter(models, "large", side=1024)
    write_painter(models, "stream", side=512, steps=8, previews=True)
    write_painter(models, "sized", side=32, steps=100, sizes=("32x32", "64x32"))
    load = ("small", "slow", "large", "stream", "sized")
    server = TritonServer(models, tmp_path, load=load, replica_id="test-painters")
    try:
        yield server.start()
    finally:
        server.stop()
