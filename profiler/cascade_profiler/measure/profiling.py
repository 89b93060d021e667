"""Measures the variants of a cascade on this machine, as far as they are not on record, and makes a CascadeProfile."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed
from cascade_api.profile import (
    CascadeProfile,
    DiscriminatorExecution,
    Execution,
    Metric,
    ProfileSource,
    ProfileSpec,
    QualityRow,
    ScoreQuantiles,
    Startup,
)
from cascade_models import manifest, repository
from cascade_models.manifest import ManifestVariant
from cascade_router.prompts.scorers import ScorerError, make_scorer

from . import execution, grid, quality, startup
from .metrics import Judge
from .places import Place
from .progress import Progress
from .records import Records
from .workload import Workload

GENERATION_BATCH = 4
"""Images per request while quality is measured. Larger requests are not faster on a core, and Triton sometimes takes a
model for dead that computes for more than a second."""
EXPECTED_IMAGE_S = {"heavy": 0.05, "light": 0.006}
"""Expected seconds per image of the built-in weights, for the first estimate of the remaining time."""
START_S = 4.0
"""Expected seconds of one start, for the same estimate."""


@dataclass(frozen=True)
class MeasurementPlan:
    """What to measure: the place, prompts, judges, objective, batch sizes, seconds of timing, and number of starts.

    Quality is measured at the variants' default size, and times also at the other ``sizes``.

    If ``chains`` are given, the profile has the objective metric of these, and all metrics of each variant alone.
    Otherwise it has all metrics of all pairs of variants.
    """

    place: Place
    workload: Workload
    judges: Sequence[Judge]
    objective: str
    batches: tuple[int, ...]
    seconds: float
    starts: int
    sizes: tuple[str, ...] = ()
    chains: Sequence[tuple[str, str]] | None = None

    @property
    def means(self) -> list[Metric]:
        return [metric for judge in self.judges for metric in judge.means]

    @property
    def distances(self) -> list[Metric]:
        return [metric for judge in self.judges for metric in judge.distances]


@dataclass(frozen=True)
class Measured:
    """A profile, and example images for the report by variant, the cheapest first."""

    profile: CascadeProfile
    workload: Workload
    shown: Mapping[str, quality.Judged]


def profile_cascade(text: str, cascade: DiffusionCascade, plan: MeasurementPlan, records: Records) -> Measured:
    """Measure the profile that a cascade names; raises CommandFailed.

    ``text`` is the manifest with the cascade. This process keeps off the core on which replicas are timed.
    """
    variants = variants_of(text, cascade, plan.place)
    hardness = hardness_of(cascade, plan.workload)
    progress = Progress(_expected(variants, plan))
    with tempfile.TemporaryDirectory(prefix="cascade-profile-") as scratch:
        directory = Path(scratch)
        with off_timed_core(plan.place):
            rows, discriminator, starts = _timings(variants, plan, directory, records, progress)
        drawing = quality.Drawing(
            plan.workload,
            plan.judges,
            directory=directory / "drawing",
            place=plan.place,
            records=records,
            progress=progress,
        )
        images = drawing.measure([dataclasses.replace(variant, batch=GENERATION_BATCH) for variant in variants])
    order = _by_cost(variants, rows)
    spec = ProfileSpec(
        source=_source(plan),
        metrics=[*plan.means, *plan.distances],
        objective_metric=plan.objective,
        execution=rows,
        discriminator=discriminator,
        startup=starts,
        quality=_quality(order, images, hardness, plan),
        scores=ScoreQuantiles(
            hardness_milli=grid.quantiles_milli(hardness),
            confidence_milli={light: grid.quantiles_milli(images[light].confidence) for light in order[:-1]},
        ),
    )
    name = cascade.spec.profile_ref.name
    profile = CascadeProfile.model_validate(
        {"metadata": {"name": name, "namespace": cascade.metadata.namespace}, "spec": spec.wire()}
    )
    return Measured(profile, plan.workload, {name: images[name] for name in order})


@contextmanager
def off_timed_core(place: Place) -> Iterator[None]:
    """Keep this process off the core on which replicas are timed, if there is another core."""
    cores = set(place.cores)
    os.sched_setaffinity(0, cores - {place.timed_core} or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _timings(
    variants: Sequence[ManifestVariant], plan: MeasurementPlan, directory: Path, records: Records, progress: Progress
) -> tuple[list[Execution], list[DiscriminatorExecution], list[Startup]]:
    # The images of a single variant are not judged.
    judged = min(variants, key=lambda variant: variant.settings.steps).name if len(variants) > 1 else None
    task = execution.Task(_at_sizes(variants, plan.sizes), plan.batches, judged=judged, seconds=plan.seconds)
    timing = execution.ExecutionMeasurement(
        task,
        plan.workload,
        place=plan.place,
        directory=directory / "timing",
        records=records,
        progress=progress,
    )
    rows, discriminator = timing.measure()
    starts = startup.measure_startup(
        variants,
        rounds=plan.starts,
        directory=directory / "starting",
        place=plan.place,
        records=records,
        progress=progress,
    )
    return rows, discriminator, starts


def _at_sizes(variants: Sequence[ManifestVariant], sizes: Sequence[str]) -> list[ManifestVariant]:
    """The variants at their default size, and then at each of the other ``sizes``."""
    others = [
        dataclasses.replace(variant, settings=dataclasses.replace(variant.settings, size=size))
        for size in sizes
        for variant in variants
        if size != variant.sizes[0]
    ]
    return [*variants, *others]


def _quality(
    order: Sequence[str], images: Mapping[str, quality.Judged], hardness: grid.Floats, plan: MeasurementPlan
) -> list[QualityRow]:
    """The rows of all chains: any two variants are one, the cheaper one is light. A single variant is a chain alone."""
    reference = {name: rows for judge in plan.judges for name, rows in judge.reference(plan.workload).items()}
    cells: list[QualityRow] = []
    if len(order) == 1 or plan.chains is not None:
        cells += [grid.alone_row(name, images[name].side, reference) for name in order]
    for light, heavy in itertools.combinations(order, 2):
        if plan.chains is not None and not {(light, heavy), (heavy, light)} & set(plan.chains):
            continue
        chain = grid.MeasuredChain(
            images[light].side, images[heavy].side, hardness, images[light].confidence, reference=reference
        )
        if plan.chains is not None:
            chain = chain.only(plan.objective)
        cells += grid.quality_rows(light, heavy, grid.estimates(chain))
    return cells


def variants_of(text: str, cascade: DiffusionCascade, place: Place) -> list[ManifestVariant]:
    """The cascade's variants; raises CommandFailed if one cannot be served on this machine."""
    names = {variant.name for variant in cascade.spec.variants}
    for index, declared in enumerate(cascade.spec.variants):
        pools = cascade.spec.pools_of(declared)
        if all(pool.accelerator_class != place.accelerator_class for pool in pools):
            raise CommandFailed(
                f"spec.variants.{index}.pools: {declared.name!r} does not run on class {place.accelerator_class!r}, "
                "the one that is measured: add a pool of it to spec.workers, or choose another --class",
                code=2,
            )
    try:
        variants = [variant for variant in manifest.read_variants(text) if variant.name in names]
        repository.models_of(variants)
    except manifest.ManifestError as error:
        raise CommandFailed(str(error), code=2) from None
    return variants


def hardness_of(cascade: DiffusionCascade, workload: Workload) -> grid.Floats:
    """The hardness of the prompts, by the scorer that the cascade's router would use."""
    wanted = cascade.spec.hardness
    try:
        scorer = make_scorer(wanted.scorer, wanted.source)
    except ScorerError as error:
        raise CommandFailed(f"spec.{error}", code=2) from None
    draws = np.random.default_rng(0).random(len(workload.prompts))
    scores = [scorer.score(prompt, draw=float(draw)) for prompt, draw in zip(workload.prompts, draws, strict=True)]
    return np.array(scores, dtype=np.float64)


def _by_cost(variants: Sequence[ManifestVariant], rows: Sequence[Execution]) -> list[str]:
    """The names of the variants, the cheapest first."""
    cost = {row.variant: row.p50_micros for row in rows if row.batch == 1 and row.size == variants[0].sizes[0]}
    return sorted((variant.name for variant in variants), key=lambda name: cost[name])


def _expected(variants: Sequence[ManifestVariant], plan: MeasurementPlan) -> dict[str, float]:
    """The expected seconds of each step, if nothing is on record."""
    steps = {execution.STEP: plan.seconds}
    steps |= {startup.step_name(v): START_S * plan.starts for v in variants}
    images = len(plan.workload.prompts) / len(plan.place.drawing_cores)
    return steps | {quality.images_step(v): EXPECTED_IMAGE_S.get(v.weights, 0.05) * images for v in variants}


def _source(plan: MeasurementPlan) -> ProfileSource:
    version = importlib.metadata.version("diffusion-cascade")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    prompts = len(plan.workload.prompts)
    return ProfileSource(kind="measured", tool=f"cascade profile {version}", time=now, prompts=prompts)
