"""All stages in order: heavy, light, discriminator, export, metadata; and the smoke run's checks of the result."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import pathlib

import numpy as np
import torch

from cascade_models.shapes import assets, grammar, sampling, tokens
from cascade_models.shapes.training import discriminator, distil, export, heavy, progress, quantise

logger = logging.getLogger("cascade_models.shapes.training")

_EXPORT_S = 9

VARIANTS = {
    "heavy": assets.SamplerSettings("heavy", steps=24, guidance=distil.GUIDANCE),
    "light": assets.SamplerSettings("light", steps=2, guidance=1.0),
}


@dataclasses.dataclass(frozen=True)
class TrainingBudget:
    """How long each stage trains: numbers of steps, and a wall-clock limit for all of them in minutes."""

    heavy_steps: int = heavy.STEPS
    light_steps: int = distil.STEPS
    discriminator: discriminator.TrainingSizes = dataclasses.field(default_factory=discriminator.TrainingSizes)
    minutes: float | None = 85.0


SMOKE = TrainingBudget(
    heavy_steps=80,
    light_steps=24,
    discriminator=discriminator.TrainingSizes(
        trunk_steps=40, edit_steps=40, light_images=256, calibration_images=64, epochs=4
    ),
    minutes=None,
)


def make(out: pathlib.Path, seed: int, budget: TrainingBudget) -> list[progress.TrainingStage]:
    """Trains everything from nothing and writes all files to ``out``; returns the stages with their losses."""
    out.mkdir(parents=True, exist_ok=True)
    started = datetime.datetime.now(datetime.timezone.utc).date()

    def share(part: float) -> float | None:
        return None if budget.minutes is None else budget.minutes * part

    teacher, first = heavy.train(seed, budget.heavy_steps, share(0.66), out / "heavy.checkpoint")
    student, second = distil.train(teacher, seed, budget.light_steps, share(0.13))
    judge, rest = discriminator.train(student, VARIANTS["light"].steps, seed, budget.discriminator, share(0.19))
    stages = [first, second, *rest]
    write(out, {"heavy": teacher, "light": student, "discriminator": judge}, seed, started, stages)
    (out / "heavy.checkpoint").unlink(missing_ok=True)
    return stages


def write(
    out: pathlib.Path,
    models: dict[assets.ModelName, torch.nn.Module],
    seed: int,
    started: datetime.date,
    stages: list[progress.TrainingStage],
) -> None:
    """Exports the models and writes the metadata."""
    for left, (name, model) in zip(range(len(models), 0, -1), models.items(), strict=True):
        logger.info("export: %s, about %d s left", name, _EXPORT_S * left)
        export.write(name, model, out)
    judge = models["discriminator"]
    document = {
        "schema": 1,
        "variants": {name: dataclasses.asdict(variant) for name, variant in VARIANTS.items()},
        "training": {
            "seed": seed,
            "date": started.isoformat(),
            "steps": {stage.name: stage.step for stage in stages},
            "torch": torch.__version__,
        },
        "parameters": {name: sum(value.numel() for value in model.parameters()) for name, model in models.items()},
        "calibration": {"scale": float(judge.scale), "offset": float(judge.offset)},
        "heldOut": sorted(" ".join(filter(None, dataclasses.astuple(shape))) for shape in grammar.HELD_OUT),
        "sha256": assets.digests(out),
    }
    (out / assets.METADATA).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    quantise.write(out)
    quantise.record(out)


def check(out: pathlib.Path, stages: list[progress.TrainingStage]) -> list[str]:
    """What is wrong with a training's result: losses that did not fall, files that are not well-formed."""
    problems = [
        f"{stage.name}: the loss did not fall ({stage.before:.4g} to {stage.after:.4g})"
        for stage in stages
        if not stage.after < stage.before
    ]
    try:
        assets.verify(out)
        export.verify(out)
        problems += _check_generation(out)
    except (assets.AssetError, export.ExportError) as error:
        problems.append(str(error))
    return problems


def _check_generation(out: pathlib.Path) -> list[str]:
    problems: list[str] = []
    words = tokens.encode_all([grammar.parse(grammar.EXAMPLE), grammar.parse("a large red circle")])
    for name, variant in assets.metadata(out).variants.items():
        model = export.read("heavy" if variant.kind == "heavy" else "light", out)
        images = sampling.generate(
            discriminator.as_callable(model),
            words,
            [1, 2],
            kind=variant.kind,
            steps=variant.steps,
            guidance=variant.guidance,
        )
        if images.shape != (2, 32, 32, 3) or images.dtype != np.uint8 or images.std() == 0:
            problems.append(f"{name}: generation gave shape {images.shape}, type {images.dtype}, no picture")
    return problems
