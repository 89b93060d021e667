"""One run of `cascade profile`: reads the manifest, measures, writes, and says what it found."""

from __future__ import annotations

from pathlib import Path

import typer

from cascade_api.cascade import DiffusionCascade
from cascade_api.command import CommandFailed
from cascade_api.documents import load_documents
from cascade_api.profile import CascadeProfile, ProfileSpec

from .profiling import Plan, profile_cascade
from .writing import write_profile


def run(*, file: Path, output: Path, prompts: int, seed: int, batches: str, seconds: float) -> None:
    """Raises DocumentError or CommandFailed before anything is measured, where something is wrong."""
    plan = Plan(prompts=prompts, seed=seed, batches=_sizes(batches), seconds=seconds)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"--file: cannot read {file}: {error.strerror}", code=2) from None
    if not output.parent.is_dir():
        raise CommandFailed(f"--output: no folder {output.parent}: make it first", code=2)
    cascades = [r for r in load_documents(text, source=str(file)) if isinstance(r, DiffusionCascade)]
    if len(cascades) != 1:
        raise CommandFailed(f"{file}: holds {len(cascades)} DiffusionCascades: profile one at a time", code=2)
    profile = profile_cascade(text, cascades[0], plan)
    write_profile(profile, output)
    typer.echo(summary(profile))
    typer.echo(f"written: {output}")


def summary(profile: CascadeProfile) -> str:
    """What a profile says, in a few lines."""
    spec = profile.spec
    cost = {row.variant: row.p50_micros for row in spec.execution if row.batch == 1}
    lines = []
    for chain in dict.fromkeys((row.light, row.heavy) for row in spec.quality):
        light, heavy = chain
        lines.append(
            f"{light} to {heavy}: cost ratio 1:{cost[heavy] / cost[light]:.1f} at batch 1, {_quality(spec, chain)}"
        )
    return "\n".join(lines)


def _quality(spec: ProfileSpec, chain: tuple[str, str]) -> str:
    metric = spec.objective_metric
    cells = {
        (row.direct_percent, row.escalation_percent): row.values_milli[metric] / 1000
        for row in spec.quality
        if (row.light, row.heavy) == chain
    }
    coin = (cells[0, 0] + cells[100, 0]) / 2
    return (
        f"{metric} all light {cells[0, 0]:.3f}, all heavy {cells[100, 0]:.3f}; half of them heavy: "
        f"by chance {coin:.3f}, by prompt {cells[50, 0]:.3f}, by confidence {cells[0, 50]:.3f}"
    )


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= 256 for part in parts):
        raise CommandFailed(
            f"--batches: {text!r} is not a list of sizes from 1 to 256: write for example 1,2,4,8", code=2
        )
    sizes = tuple(sorted({int(part) for part in parts}))
    if sizes[0] != 1:
        raise CommandFailed("--batches: batch 1 must be among them: every plan starts from it", code=2)
    return sizes
