"""`cascade profile` measures the variants of a manifest; `cascade drift` checks whether a profile still holds."""

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
        Path, typer.Option("--output", "-o", help="File for the profile; in a manifest, only the profile is replaced.")
    ],
    prompts: Annotated[int, typer.Option(min=40, help="Number of prompts for measuring quality.")] = 2000,
    prompts_from: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option(help="File with a prompt a line; default: held-out prompts of the shapes.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and images.")] = 0,
    batches: Annotated[str, typer.Option(help="Batch sizes to time, 1 among them.")] = "1,2,4",
    sizes: Annotated[
        str, typer.Option(metavar="SIZE,…", help="Sizes of images to time, beside the default; else all in spec.sizes.")
    ] = "",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86400, help="Seconds of timing for all variants and batch sizes together.")
    ] = 90.0,
    starts: Annotated[
        int, typer.Option(min=1, help="How often each variant is started, from nothing and in place of another.")
    ] = 3,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="shapes, or clip=FOLDER with a CLIP or PickScore model; repeatable.", show_default=False),
    ] = None,
    reference: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with true images, for a Fréchet distance to them.", show_default=False),
    ] = None,
    objective: Annotated[str, typer.Option(help="Metric that the planner follows; default: the first.")] = "",
    accelerator_class: Annotated[str, typer.Option("--class", help="Accelerator class of this machine.")] = "cpu",
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Also write a report with plots and images.", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard the record and measure everything.")] = False,
) -> None:
    """Measure latency and quality through a real Triton; write a CascadeProfile.

    Every measurement is recorded at once beside the output (OUTPUT.measured). So a run that was ended continues where
    it was, and a run with more batches or prompts adds only what is missing.
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
            sizes=sizes,
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
    file: Annotated[Path, typer.Option("--file", "-f", help="Manifest that is served, with its profile.")],
    tolerance: Annotated[int, typer.Option(min=1, help="Percent by which a time may differ.")] = 25,
    redis_url: Annotated[
        str,
        typer.Option(
            envvar="REDIS_URL",
            help="The cascade's Redis; default: the local run's. Put a URL with a password into the variable.",
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--state-dir", help="Where the local run keeps its addresses.", show_default=False),
    ] = None,
) -> None:
    """Compare a running cascade with its profile: times of batches, and distributions of scores.

    It watches every ready replica, and asks one that has nothing to do for images, one at a time. The exit code is 1 if
    something drifted; then profile again.
    """
    from .drift import run

    drifted = run(file=file, tolerance=tolerance / 100, redis_url=redis_url, as_json=json, state_dir=state_dir)
    if drifted:
        raise typer.Exit(1)
