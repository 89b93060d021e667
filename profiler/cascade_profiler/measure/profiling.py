"""Measures the variants of a cascade on this machine, from nothing to a CascadeProfile."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed
from cascade_api.names import CPU_CLASS
from cascade_api.profile import (
    CascadeProfile,
    Execution,
    Metric,
    ProfileSource,
    ProfileSpec,
    QualityRow,
    ScoreQuantiles,
)
from cascade_models import manifest, repository
from cascade_models.manifest import Variant
from cascade_router.prompts.scorers import ScorerError, make_scorer

from . import execution, grid, quality, startup
from .progress import Progress
from .workload import Workload, sample_workload

OBJECTIVE_METRIC = "q2"
GENERATION_BATCH = 4
"""Images per request while quality is measured: larger ones are no faster on a core, and Triton takes a model that
computes for a second for dead too easily."""
EXPECTED_IMAGE_S = {"heavy": 0.05, "light": 0.006}
START_STEP_S = 12.0


@dataclass(frozen=True)
class Plan:
    """What to measure, how long, and with which prompts."""

    prompts: int
    seed: int
    batches: tuple[int, ...]
    seconds: float


def profile_cascade(text: str, cascade: DiffusionCascade, plan: Plan) -> CascadeProfile:
    """The profile that a cascade of the built-in models names, measured here; raises CommandFailed.

    ``text`` is the manifest that holds the cascade. This process is kept off the core that replicas are timed on.
    """
    variants = _variants(text, cascade)
    workload = sample_workload(plan.prompts, plan.seed)
    hardness = _hardness(cascade, workload)
    cores = sorted(os.sched_getaffinity(0))
    timed = cores[-1]
    steps = {execution.STEP: plan.seconds}
    steps |= {startup.step_name(v): START_STEP_S for v in variants}
    images_s = plan.prompts / len(cores)
    steps |= {quality.images_step(v): EXPECTED_IMAGE_S.get(v.weights, 0.05) * images_s for v in variants}
    progress = Progress(steps)
    with tempfile.TemporaryDirectory(prefix="cascade-profile-") as scratch:
        directory = Path(scratch)
        os.sched_setaffinity(0, set(cores[:-1]) or {timed})
        rows, discriminator = execution.measure_execution(
            variants,
            plan.batches,
            workload,
            judged=min(variants, key=lambda variant: variant.steps).name,
            directory=directory / "timing",
            core=timed,
            seconds=plan.seconds,
            progress=progress,
        )
        starts = startup.measure_startup(variants, directory=directory / "starting", core=timed, progress=progress)
        os.sched_setaffinity(0, cores)
        drawn = [dataclasses.replace(variant, batch=GENERATION_BATCH) for variant in variants]
        images = quality.measure_images(
            drawn, workload, directory=directory / "drawing", cores=cores, progress=progress
        )
    chains = _chains(variants, rows)
    cells: list[QualityRow] = []
    for light, heavy in chains:
        cells += grid.quality_rows(
            light,
            heavy,
            hardness=hardness,
            confidence=images[light].confidence,
            light_values=images[light].values,
            heavy_values=images[heavy].values,
        )
    lights = dict.fromkeys(light for light, _ in chains)
    spec = ProfileSpec(
        source=_source(plan),
        metrics=[Metric(name=metric, direction="max") for metric in quality.METRICS],
        objective_metric=OBJECTIVE_METRIC,
        execution=rows,
        discriminator=discriminator,
        startup=starts,
        quality=cells,
        scores=ScoreQuantiles(
            hardness_milli=grid.quantiles_milli(hardness),
            confidence_milli={light: grid.quantiles_milli(images[light].confidence) for light in lights},
        ),
    )
    name = cascade.spec.profile_ref.name
    return CascadeProfile.model_validate(
        {"metadata": {"name": name, "namespace": cascade.metadata.namespace}, "spec": spec.wire()}
    )


def _variants(text: str, cascade: DiffusionCascade) -> list[Variant]:
    """The cascade's variants, checked to be servable on this machine."""
    names = {variant.name for variant in cascade.spec.variants}
    for index, declared in enumerate(cascade.spec.variants):
        if CPU_CLASS not in declared.classes:
            raise CommandFailed(
                f"spec.variants.{index}.classes: {declared.name!r} does not run on class {CPU_CLASS!r}, the only one "
                "that is measured here: add it",
                code=2,
            )
    try:
        variants = [variant for variant in manifest.read_variants(text) if variant.name in names]
        for variant in variants:
            repository.recipe_of(variant)
    except manifest.ManifestError as error:
        raise CommandFailed(str(error), code=2) from None
    return variants


def _hardness(cascade: DiffusionCascade, workload: Workload) -> grid.Floats:
    """Scores of the prompts by the scorer that the cascade's router would use."""
    wanted = cascade.spec.hardness
    try:
        scorer = make_scorer(wanted.scorer, wanted.source)
    except ScorerError as error:
        raise CommandFailed(f"spec.{error}", code=2) from None
    draws = np.random.default_rng(0).random(len(workload.prompts))
    scores = [scorer.score(prompt, draw=float(draw)) for prompt, draw in zip(workload.prompts, draws, strict=True)]
    return np.array(scores, dtype=np.float64)


def _chains(variants: Sequence[Variant], rows: Sequence[Execution]) -> list[tuple[str, str]]:
    """Every pair of variants of which the first is the cheaper, cheapest light first."""
    cost = {row.variant: row.p50_micros for row in rows if row.batch == 1}
    ordered = sorted((variant.name for variant in variants), key=lambda name: cost[name])
    return [(light, heavy) for index, light in enumerate(ordered) for heavy in ordered[index + 1 :]]


def _source(plan: Plan) -> ProfileSource:
    version = importlib.metadata.version("diffusion-cascade")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ProfileSource(kind="measured", tool=f"cascade profile {version}", time=now, prompts=plan.prompts)
