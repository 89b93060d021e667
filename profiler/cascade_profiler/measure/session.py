"""Runs `cascade profile`: reads the manifest, measures, writes the profile, and prints a summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed, read_text
from cascade_api.documents import load_documents
from cascade_api.profile import CascadeProfile, QualityRow

from .metrics import make_judges
from .places import find_place
from .profile_page import profile_page
from .profiling import MeasurementPlan, profile_cascade
from .records import Records, records_file
from .workload import read_workload, sample_workload
from .writing import check_output, write_profile


@dataclass(frozen=True)
class ProfilingOptions:
    """The options of the command line."""

    file: Path
    output: Path
    prompts: int
    prompts_from: Path | None
    seed: int
    batches: str
    sizes: str
    seconds: float
    starts: int
    metrics: tuple[str, ...]
    reference: Path | None
    objective: str
    accelerator_class: str
    report: Path | None
    fresh: bool


def run(options: ProfilingOptions) -> None:
    """Measure and write a profile. Wrong options raise DocumentError or CommandFailed before anything is measured."""
    text, cascade = read_manifest(options.file)
    check_files({"--output": options.output, "--report": options.report})
    check_output(options.output)
    plan = _plan(options, cascade.spec.sizes)
    with Records(records_file(options.output), fresh=options.fresh) as records:
        if held := records.count():
            typer.echo(f"{records.file} has {held} measurements; those that fit are used (with --fresh, none)")
        measured = profile_cascade(text, cascade, plan, records)
    write_profile(measured.profile, options.output)
    typer.echo(summary(measured.profile))
    typer.echo(f"written: {options.output}")
    if options.report is not None:
        shown = {name: judged.shown for name, judged in measured.shown.items()}
        options.report.write_text(profile_page(measured.profile, measured.workload.prompts, shown), encoding="utf-8")
        typer.echo(f"written: {options.report}")


def summary(profile: CascadeProfile) -> str:
    """A profile in a few lines."""
    spec = profile.spec
    default = spec.execution[0].size
    cost = {row.variant: row.p50_micros for row in spec.execution if row.batch == 1 and row.size == default}
    lines = []
    for row in (row for row in spec.quality if row.alone):
        lines += [f"{row.path} alone", *(f"  {metric.name}: {_value(metric.name, row)}" for metric in spec.metrics)]
    for chain in dict.fromkeys(row.chain for row in spec.quality if not row.alone):
        light, heavy = chain
        lines.append(f"{light} to {heavy}: cost ratio 1:{cost[heavy] / cost[light]:.1f} at batch 1")
        cells = {
            (row.direct_percent, row.escalation_percent): row
            for row in spec.quality
            if row.chain == chain and row.direct_percent is not None and row.escalation_percent is not None
        }
        lines += [f"  {metric.name}: {_quality(metric.name, cells)}" for metric in spec.metrics]
    return "\n".join([*lines, f"objective: {spec.objective_metric} of {spec.source.prompts} prompts"])


def _value(metric: str, row: QualityRow) -> str:
    error = (row.errors_milli or {}).get(metric, 0)
    return f"{row.values_milli[metric] / 1000:.3f} ± {error / 1000:.3f}"


def _quality(metric: str, cells: dict[tuple[int, int], QualityRow]) -> str:
    def at(direct: int, escalation: int) -> str:
        return _value(metric, cells[direct, escalation])

    coin = sum(cells[direct, 0].values_milli[metric] for direct in (0, 100)) / 2000
    chance = f"by chance {coin:.3f}, " if not metric.startswith("fd-") else ""
    return (
        f"all light {at(0, 0)}, all heavy {at(100, 0)}; half of them heavy: "
        f"{chance}by prompt {at(50, 0)}, by confidence {at(0, 50)}"
    )


def check_files(files: Mapping[str, Path | None]) -> None:
    """Raise CommandFailed if a file that an option names cannot be one."""
    for option, path in files.items():
        if path is not None and not path.parent.is_dir():
            raise CommandFailed(f"{option}: no folder {path.parent}: create it first", code=2)
        if path is not None and path.is_dir():
            raise CommandFailed(f"{option}: {path} is a folder: name a file in it", code=2)


def read_manifest(file: Path) -> tuple[str, DiffusionCascade]:
    """The text of a manifest and its only cascade; raises DocumentError or CommandFailed."""
    text = read_text(file)
    cascades = [r for r in load_documents(text, source=str(file)) if isinstance(r, DiffusionCascade)]
    if len(cascades) != 1:
        raise CommandFailed(f"{file}: has {len(cascades)} DiffusionCascades: measure one at a time", code=2)
    return text, cascades[0]


def _plan(options: ProfilingOptions, offered: Sequence[str]) -> MeasurementPlan:
    batches, size = batch_sizes(options.batches), offered[0]
    sizes = tuple(part.strip() for part in options.sizes.split(",") if part.strip()) or tuple(offered)
    for wanted in sizes:
        if wanted not in offered:
            raise CommandFailed(
                f"--sizes: {wanted!r} is not in spec.sizes: add it there, or choose from {', '.join(offered)}", code=2
            )
    if options.prompts_from is None:
        workload = sample_workload(options.prompts, options.seed)
    else:
        workload = read_workload(options.prompts_from, options.prompts, options.seed)
    judges = make_judges(options.metrics, workload, size=size, reference=options.reference)
    names = [metric.name for judge in judges for metric in (*judge.means, *judge.distances)]
    if options.objective and options.objective not in names:
        raise CommandFailed(
            f"--objective: {options.objective!r} is not measured: write one of {', '.join(names)}", code=2
        )
    return MeasurementPlan(
        place=find_place(options.accelerator_class),
        workload=workload,
        judges=judges,
        objective=options.objective or names[0],
        batches=batches,
        seconds=options.seconds,
        starts=options.starts,
        sizes=sizes,
    )


def batch_sizes(text: str) -> tuple[int, ...]:
    """The batch sizes in a list such as ``1,2,4``, in rising order; raises CommandFailed."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 256 for part in parts):
        raise CommandFailed(
            f"--batches: {text!r} is not a list of sizes from 1 to 256: write for example 1,2,4,8", code=2
        )
    sizes = tuple(sorted({int(part) for part in parts}))
    if sizes[0] != 1:
        raise CommandFailed("--batches: batch 1 must be among them: every plan starts from it", code=2)
    return sizes
