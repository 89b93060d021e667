"""Makes labelled images of the built-in shapes, as an example of a data set and for tests of the training."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
from PIL import Image

from cascade_models import engines
from cascade_models.shapes import assets, checker, grammar, sampling, tokens

BATCH = 16
INPUTS = ("x", "t", "tokens")


def write(folder: pathlib.Path, count: int, seed: int, *, objects: int | None = None) -> pathlib.Path:
    """Write ``count`` images of the light model, with the checker's verdict as label, and q2; returns the CSV file."""
    rng = np.random.default_rng((seed, 40))
    scenes = [grammar.sample_scene(rng, objects or 1 + index % grammar.MAX_OBJECTS) for index in range(count)]
    denoise = engines.load("onnxruntime", assets.path("light"), INPUTS)
    steps = assets.metadata().variants["light"].steps
    (folder / "images").mkdir(parents=True, exist_ok=True)
    file = folder / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(["image", "prompt", "label", "q2"])
        for start in range(0, count, BATCH):
            part = scenes[start : start + BATCH]
            seeds = [seed * 10**6 + start + at for at in range(len(part))]
            images = sampling.generate(denoise, tokens.encode_all(part), seeds, kind="light", steps=steps)
            for at, (image, scene) in enumerate(zip(images, part, strict=True)):
                name = f"images/{start + at:06d}.png"
                Image.fromarray(image).save(folder / name)
                scores = checker.check(image, scene)
                table.writerow([name, grammar.describe(scene), f"{scores.strict:g}", f"{scores.q2:.3f}"])
    return file
