"""Labelled prompts: how much better the heavy variant's image of each prompt is than the light one's.

The labels come from a file, from the published reference data, or from images of the built-in models.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_api.command import CommandFailed, read_text
from cascade_api.names import CPU_CLASS
from cascade_models import manifest
from cascade_router.prompts.features import PUBLISHED

from ..frontier.inputs import BadInput, lines_of, records
from ..frontier.reference import HADIS_MODELS, reference_folder
from ..measure import quality
from ..measure.metrics import SHAPES_SIZE, make_judges
from ..measure.places import find_place
from ..measure.profiling import EXPECTED_IMAGE_S, GENERATION_BATCH
from ..measure.progress import Progress
from ..measure.records import Records
from ..measure.workload import sample_workload
from ..simulate.scores import confidences

Floats = npt.NDArray[np.float64]

LEAST: Final = 40
"""The fewest prompts that a scorer is fitted to."""
CONFIDENCE: Final = "confidence:"
"""Prefix that selects labels from the reference data: `confidence:` and the name of a variant."""


@dataclass(frozen=True)
class LabelledPrompts:
    """Prompts with the gain of each. ``classes``, if known, groups them for the held-out split by class."""

    source: str
    prompts: tuple[str, ...]
    gain: Floats
    classes: tuple[str, ...] | None = None


def load_labels(name: str) -> LabelledPrompts:
    """Labels from a file with the columns prompt, gain and perhaps class, or from `confidence:VARIANT`."""
    if name.startswith(CONFIDENCE):
        return _confidence_labels(name.removeprefix(CONFIDENCE))
    prompts, gain, classes = [], [], []
    for record in records(Path(name), columns=["prompt", "gain"]):
        prompts.append(record.text("prompt"))
        gain.append(record.number("gain"))
        classes.append(record.cells.get("class", ""))
    return _enough(LabelledPrompts(name, tuple(prompts), np.asarray(gain), tuple(classes) if all(classes) else None))


def _confidence_labels(variant: str) -> LabelledPrompts:
    """Labels from the published discriminator: the lower its confidence in a prompt's images, the larger the gain."""
    if variant not in HADIS_MODELS:
        raise BadInput(CONFIDENCE + variant, f"unknown variant; known are {', '.join(HADIS_MODELS)}")
    folder = reference_folder()
    prompts = lines_of(folder / "prompts_imagenet1k_hr_5k.txt")
    real = confidences(folder / f"disc_scores_model_{HADIS_MODELS.index(variant)}.txt")
    if len(real) != len(prompts):
        raise BadInput(str(folder), f"has {len(prompts)} prompts but confidences of {len(real)}")
    # Scores span eight powers of ten, so their logarithms are averaged.
    return LabelledPrompts(CONFIDENCE + variant, tuple(prompts), -np.log(np.maximum(real, 1e-9)).mean(axis=1))


def load_features(path: Path) -> tuple[tuple[str, ...], dict[str, Floats]]:
    """Prompts and the counts of the published features, from the columns of a CSV file."""
    prompts: list[str] = []
    counts: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for record in records(path, columns=["prompt", *PUBLISHED]):
        prompts.append(record.text("prompt"))
        for name in PUBLISHED:
            counts[name].append(record.number(name, low=0))
    if len(prompts) < LEAST:
        raise BadInput(str(path), f"has {len(prompts)} prompts: at least {LEAST} are needed")
    return tuple(prompts), {name: np.asarray(values) for name, values in counts.items()}


def make_labels(file: Path, *, prompts: int, seed: int) -> LabelledPrompts:
    """Labels from images of the built-in models: the checker's score of the heavy image minus that of the light one."""
    try:
        variants = manifest.read_variants(read_text(file))
    except manifest.ManifestError as error:
        raise CommandFailed(f"{file}: {error}", code=2) from None
    if len(variants) < 2:
        raise CommandFailed(f"{file}: spec.variants: at least two variants are needed: add one", code=2)
    ordered = sorted(variants, key=lambda variant: variant.settings.steps)
    drawn = [dataclasses.replace(variant, batch=GENERATION_BATCH) for variant in (ordered[0], ordered[-1])]
    workload = sample_workload(prompts, seed)
    judges, place = make_judges([], workload, size=SHAPES_SIZE, reference=None), find_place(CPU_CLASS)
    steps = {quality.images_step(v): EXPECTED_IMAGE_S.get(v.weights, 0.05) * prompts / len(place.cores) for v in drawn}
    with tempfile.TemporaryDirectory(prefix="cascade-fit-") as scratch:
        folder = Path(scratch)
        with Records(folder / "measured") as kept:
            drawing = quality.Drawing(
                workload,
                judges,
                directory=folder / "models",
                place=place,
                records=kept,
                progress=Progress(steps),
            )
            judged = drawing.measure(drawn)
    metric = judges[0].means[0].name
    light, heavy = (judged[variant.name].side.values[metric] for variant in drawn)
    return _enough(LabelledPrompts(str(file), workload.prompts, heavy - light))


def _enough(labelled: LabelledPrompts) -> LabelledPrompts:
    if len(labelled.prompts) < LEAST:
        raise BadInput(labelled.source, f"has {len(labelled.prompts)} prompts: at least {LEAST} are needed")
    if len(set(labelled.gain.tolist())) < 2:
        raise BadInput(labelled.source, "is the same for all prompts, so nothing can be fitted", field="gain")
    return labelled


def as_csv(labelled: LabelledPrompts) -> Sequence[Sequence[object]]:
    """The rows of a CSV file that `load_labels` can read."""
    return [("prompt", "gain"), *zip(labelled.prompts, labelled.gain.tolist(), strict=True)]
