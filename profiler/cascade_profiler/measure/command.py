"""`cascade profile` and `cascade drift`: measure the variants of a manifest, and see whether that still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(profile)
    app.command()(drift)


def profile(
    file: Annotated[Path, typer.Option("--file", "-f", help="Manifest with one DiffusionCascade.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File that gets the profile; of a manifest, only that is replaced.")
    ],
    prompts: Annotated[int, typer.Option(min=40, help="Prompts that quality is measured on.")] = 2000,
    prompts_from: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option(help="File with a prompt a line; default: held-out prompts of the shapes.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and images.")] = 0,
    batches: Annotated[str, typer.Option(help="Batch sizes to time, 1 among them.")] = "1,2,4",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86400, help="Seconds of timing, all variants and batch sizes together.")
    ] = 90.0,
    starts: Annotated[
        int, typer.Option(min=1, help="Times that each variant is started, from nothing and in place of another.")
    ] = 3,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="shapes, or clip=FOLDER with a CLIP or PickScore model; repeatable.", show_default=False),
    ] = None,
    reference: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with true images, for a Fréchet distance to them.", show_default=False),
    ] = None,
    objective: Annotated[str, typer.Option(help="Metric that the planner is to follow; default: the first.")] = "",
    accelerator_class: Annotated[str, typer.Option("--class", help="Accelerator class that this machine is.")] = "cpu",
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Also write a report with plots and images.", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is on record.")] = False,
) -> None:
    """Measure latency and quality through a real Triton; write a CascadeProfile.

    What is measured goes on record beside the output (OUTPUT.measured) at once: a run that was ended goes on where it
    was, and one with more batches or prompts adds what is missing.
    """
    from .session import ProfilingOptions, run

    run(
        ProfilingOptions(
            file=file,
            output=output,
            prompts=prompts,
            prompts_from=prompts_from,
            seed=seed,
            batches=batches,
            seconds=seconds,
            starts=starts,
            metrics=tuple(metric or ()),
            reference=reference,
            objective=objective,
            accelerator_class=accelerator_class,
            report=report,
            fresh=fresh,
        )
    )


def drift(
    file: Annotated[Path, typer.Option("--file", "-f", help="The manifest that is served, with its profile.")],
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="How long running replicas are watched.")] = 20.0,
    tolerance: Annotated[int, typer.Option(min=1, help="Percent by which a time may be off.")] = 25,
    redis_url: Annotated[
        str,
        typer.Option(
            envvar="REDIS_URL",
            help="Its Redis; default: the local run's. A password belongs in the variable.",
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--state-dir", help="Where the local run keeps its addresses.", show_default=False),
    ] = None,
) -> None:
    """Compare a running cascade with its profile: times of batches, and distributions of scores.

    Watches every ready replica; one that has nothing to do is asked for images, one at a time. Exit code 1 where
    something drifted: profile again.
    """
    from .drift import run

    drifted = run(
        file=file, seconds=seconds, tolerance=tolerance / 100, redis_url=redis_url, as_json=json, state_dir=state_dir
    )
    if drifted:
        raise typer.Exit(1)
