"""Runs `cascade explore`: times and draws candidates, keeps the best, and measures the profile of those."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import typer

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed
from cascade_api.names import CPU_CLASS
from cascade_models import repository
from cascade_models.manifest import ManifestVariant
from cascade_models.recipe import INT8, RecipeError, SettingsSpace

from ..measure import profiling
from ..measure.metrics import make_judges
from ..measure.places import Place, find_place
from ..measure.profiling import MeasurementPlan, profile_cascade
from ..measure.records import Records, records_file
from ..measure.session import batch_sizes, check_files, read_manifest
from ..measure.workload import Workload, read_workload, sample_workload
from ..measure.writing import with_profile, write_whole
from . import telling
from .frontier import best_chains
from .manifests import cascade_of, with_variants
from .options import narrowed
from .page import exploration_page
from .painting import Exploration, Painter
from .result import Result
from .rounds import GRAIN, BudgetTooSmall
from .searching import Budget, Found, search
from .space import NameTooLong, candidates, with_precisions

MOST_CHAINS: Final = 10
"""The most chains in the profile: `kubectl apply` keeps a copy of it in an annotation, which may have 256 KiB."""
UNLIMITED: Final = float("inf")
LEAST_PROMPTS: Final = 128
"""The fewest prompts, of which one half is for choosing."""


@dataclass(frozen=True)
class ExploringOptions:
    """The options of the command line."""

    file: Path
    output: Path
    prompts: int
    prompts_from: Path | None
    seed: int
    images: int | None
    minutes: float | None
    steps: tuple[str, ...]
    guidance: tuple[str, ...]
    guided: tuple[str, ...]
    step_cache: tuple[str, ...]
    precision: tuple[str, ...]
    most: int
    batches: str
    seconds: float
    metrics: tuple[str, ...]
    objective: str
    accelerator_class: str
    report: Path | None
    fresh: bool


def run(options: ExploringOptions) -> None:
    """Explore, and write manifest and profile. Wrong options raise CommandFailed before anything is measured."""
    began_s = time.monotonic()
    what = _exploration(options)
    batches = batch_sizes(options.batches)
    check_files({"--output": options.output, "--report": options.report})
    with Records(records_file(options.output), fresh=options.fresh) as records:
        if held := records.count():
            typer.echo(f"{records.file} has {held} measurements; those that fit are used (with --fresh, none)")
        typer.echo(f"{len(what.tried)} settings of {len({one.model for one in what.tried})} weights are tried")
        with tempfile.TemporaryDirectory(prefix="cascade-explore-") as scratch:
            painter = Painter(what, Path(scratch), records)
            found = _search(options, what, painter, began_s)
            typer.echo(telling.verdicts(found))
            reported = painter.report(found)
        chosen = {one.name: one for one in what.tried}
        text = with_variants(what.text, what.cascade, [chosen[name] for name in found.kept])
        plan = MeasurementPlan(
            place=what.place,
            workload=what.reporting.part(0, found.evidence.prompts),
            judges=what.judges,
            objective=what.objective,
            batches=batches,
            seconds=options.seconds,
            starts=1,
            chains=best_chains(found.evidence, found.scale.floor, MOST_CHAINS),
        )
        measured = profile_cascade(text, cascade_of(text, what.cascade), plan, records)
    write_whole(with_profile(text, measured.profile), options.output)
    result = Result.of(what.objective, painter.sign, found, reported, max(painter.seconds.values()))
    typer.echo(telling.comparison(result))
    typer.echo(f"written: {options.output}")
    if options.report is not None:
        shown = {name: judged.shown for name, judged in measured.shown.items()}
        page = exploration_page(what.cascade.metadata.name, result, measured.workload.prompts, shown)
        options.report.write_text(page, encoding="utf-8")
        typer.echo(f"written: {options.report}")


def _search(options: ExploringOptions, what: Exploration, painter: Painter, began_s: float) -> Found:
    names, prompts = [one.name for one in what.tried], len(what.choosing.prompts)
    try:
        return search(names, painter.draw, _budget(options, what, painter, began_s), prompts=prompts, most=options.most)
    except BudgetTooSmall as error:
        if options.minutes is None:
            raise CommandFailed(
                f"--images: {options.images} are too few: {error.least:.0f} is the least", code=2
            ) from None
        raise CommandFailed(
            f"--minutes: {options.minutes:g} is too short: drawing alone takes {error.least / 60:.1f} at least", code=2
        ) from None


def _budget(options: ExploringOptions, what: Exploration, painter: Painter, began_s: float) -> Budget:
    """The budget in images, or in seconds since the command began; without either, it has no end."""
    if options.minutes is None:
        images = UNLIMITED if options.images is None else float(options.images)
        return Budget(dict.fromkeys(painter.seconds, 1.0), lambda spent: images - spent)
    # What is left in the end is for the profile of the kept settings.
    until_s = began_s + 60 * options.minutes - what.profile_s
    return Budget(painter.wall_s, lambda _: until_s - time.monotonic())


def _exploration(options: ExploringOptions) -> Exploration:
    """What the options ask for; raises CommandFailed."""
    text, cascade = read_manifest(options.file)
    size = cascade.spec.sizes[0]
    everything = _workload(options)
    if len(everything.prompts) < LEAST_PROMPTS:
        raise CommandFailed(
            f"--prompts-from: {options.prompts_from} has {len(everything.prompts)} different prompts: "
            f"write at least {LEAST_PROMPTS}",
            code=2,
        )
    for variant in cascade.spec.variants:
        if options.most > 1 and cascade.spec.discriminator_of(variant.name) is None:
            raise CommandFailed(
                f"{options.file}: {variant.name} has no discriminator, without which there are no chains: "
                "add spec.discriminator, or write --most 1",
                code=2,
            )
    half = len(everything.prompts) // 2 // GRAIN * GRAIN
    judges = make_judges(options.metrics, everything, size=size, reference=None)
    means = [metric.name for judge in judges for metric in judge.means]
    if options.objective and options.objective not in means:
        raise CommandFailed(
            f"--objective: {options.objective!r} is not a mean over images, by which alone settings are compared: "
            f"write one of {', '.join(means)}",
            code=2,
        )
    place = find_place(options.accelerator_class)
    return Exploration(
        text,
        cascade,
        tried(text, cascade, place, options),
        choosing=everything.part(0, half),
        reporting=everything.part(half, 2 * half),
        judges=judges,
        objective=options.objective or means[0],
        place=place,
        most=options.most,
        profile_s=options.seconds + profiling.START_S * options.most,
    )


def tried(text: str, cascade: DiffusionCascade, place: Place, options: ExploringOptions) -> list[ManifestVariant]:
    """The candidates of a manifest; raises CommandFailed if one cannot be served."""
    variants = profiling.variants_of(text, cascade, place)
    recipes = repository.models_of(variants)
    own = {model: _possible(repository.settings_space(one), one.engine, place) for model, one in recipes.items()}
    try:
        spaces = narrowed(
            own,
            variants,
            steps=options.steps,
            guidance=options.guidance,
            guided=options.guided,
            step_cache=options.step_cache,
            precision=options.precision,
        )
        variants, spaces = with_precisions(variants, spaces)
        found = candidates(variants, spaces)
    except NameTooLong as error:
        raise CommandFailed(str(error), code=2) from None
    for one in variants:
        if one.model not in recipes and not _computes(one.precision, one.engine, place):
            raise CommandFailed(
                f"--precision: {one.engine} does not compute in {one.precision} on class {place.accelerator_class}: "
                "leave it out",
                code=2,
            )
    recipes = repository.models_of(variants)
    for one in found:
        try:
            repository.check_settings(recipes[one.model], one.settings)
        except RecipeError as error:
            option = {"guidanceInterval": "guided", "stepCache": "step-cache"}.get(error.key, error.key)
            raise CommandFailed(f"--{option}: {one.name}: {error}", code=2) from None
    return found


def _possible(space: SettingsSpace, engine: str, place: Place) -> SettingsSpace:
    """A space with the precisions that an engine can compute in."""
    return replace(space, precisions=tuple(name for name in space.precisions if _computes(name, engine, place)))


def _computes(precision: str, engine: str, place: Place) -> bool:
    on_cpu = place.accelerator_class == CPU_CLASS
    if precision == INT8:
        return engine == ("onnxruntime" if on_cpu else "diffusers")
    return precision == "fp32" or not on_cpu


def _workload(options: ExploringOptions) -> Workload:
    if options.prompts_from is None:
        return sample_workload(options.prompts, options.seed)
    return read_workload(options.prompts_from, options.prompts, options.seed).shuffled(options.seed)
