"""`cascade profile`: measure the variants of a manifest on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `cascade profile`."""
    app.command()(profile)


def profile(
    file: Annotated[Path, typer.Option("--file", "-f", help="Manifest with one DiffusionCascade.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File that gets the profile; of a manifest, only that is replaced.")
    ],
    prompts: Annotated[int, typer.Option(min=40, help="Prompts that quality is measured on.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and images.")] = 0,
    batches: Annotated[str, typer.Option(help="Batch sizes to time, 1 among them.")] = "1,2,4",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds of timing, all variants and batch sizes together.")
    ] = 90.0,
) -> None:
    """Measure latency and quality through a real Triton; write a CascadeProfile."""
    from .session import run

    run(file=file, output=output, prompts=prompts, seed=seed, batches=batches, seconds=seconds)
