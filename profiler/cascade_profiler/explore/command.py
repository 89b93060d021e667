"""`cascade explore` searches the settings of a manifest's models that are worth serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cascade_api.command import CommandFailed


def register(app: typer.Typer) -> None:
    """Add `cascade explore`."""
    app.command()(explore)


def explore(
    file: Annotated[Path, typer.Option("--file", "-f", help="Manifest with one DiffusionCascade: its weights.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the manifest that was found; it is replaced.")
    ],
    prompts: Annotated[
        int, typer.Option(min=128, help="Number of prompts; one half is for choosing, the other for reporting.")
    ] = 2000,
    prompts_from: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option(help="File with a prompt a line; default: held-out prompts of the shapes.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and images.")] = 0,
    images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Budget: the most images to draw; fewer prompts are used.", show_default=False),
    ] = None,
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.1, help="Budget: the time that all may take; fewer prompts are used.", show_default=False),
    ] = None,
    steps: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Steps to try, such as 4,8,12, or heavy=4,8 for one variant's weights; repeatable."),
    ] = None,
    guidance: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Scales of guidance to try, such as none,2,own, or heavy=none,own; repeatable."),
    ] = None,
    guided: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Parts of the steps to guide, in percent, such as 15-60, besides all; repeatable."),
    ] = None,
    step_cache: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Step caches to try, such as none,first-block:0.08,taylor-seer:3; repeatable."),
    ] = None,
    precision: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Precisions to try besides the manifest's (own), such as own,int8; repeatable."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=8, help="The most variants to keep.")] = 8,
    batches: Annotated[str, typer.Option(help="Batch sizes to time of the kept variants, 1 among them.")] = "1,2,4",
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds of timing the kept variants.")] = 90.0,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="shapes, or clip=FOLDER with a CLIP or PickScore model; repeatable.", show_default=False),
    ] = None,
    objective: Annotated[str, typer.Option(help="Metric by which settings are chosen; default: the first.")] = "",
    accelerator_class: Annotated[str, typer.Option("--class", help="Accelerator class of this machine.")] = "cpu",
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Also write a report with plots and images.", show_default=False),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard the record and measure everything.")] = False,
) -> None:
    """Search the settings that are worth serving, alone or in chains; write a manifest with its CascadeProfile.

    The weights of the manifest are tried with many numbers of steps and scales of guidance. Every measurement is
    recorded at once beside the output (OUTPUT.measured), so that a run that was ended continues where it was.
    """
    from .session import ExploringOptions, run

    if images is not None and minutes is not None:
        raise CommandFailed("--images, --minutes: are both given: choose one budget", code=2)
    run(
        ExploringOptions(
            file=file,
            output=output,
            prompts=prompts,
            prompts_from=prompts_from,
            seed=seed,
            images=images,
            minutes=minutes,
            steps=tuple(steps or ()),
            guidance=tuple(guidance or ()),
            guided=tuple(guided or ()),
            step_cache=tuple(step_cache or ()),
            precision=tuple(precision or ()),
            most=most,
            batches=batches,
            seconds=seconds,
            metrics=tuple(metric or ()),
            objective=objective,
            accelerator_class=accelerator_class,
            report=report,
            fresh=fresh,
        )
    )
