"""`cascade fit-hardness`: fit the prompt scorer to labelled prompts, with held-out evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def register(app: typer.Typer) -> None:
    """Add `cascade fit-hardness`."""
    app.command()(fit_hardness)


def fit_hardness(
    labels: Annotated[
        str,
        typer.Option(
            metavar="FILE.csv",
            help="Columns prompt, gain (of the heavy variant's image over the light one's) and perhaps class; or "
            "confidence:VARIANT for the reference data.",
        ),
    ] = "",
    features: Annotated[
        str,
        typer.Option(
            metavar="FILE.csv", help="Columns prompt and the eight published features: fit the features' word tables."
        ),
    ] = "",
    file: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option("--file", "-f", help="Manifest of built-in models, which make the labels.", show_default=False),
    ] = None,
    prompts: Annotated[int, typer.Option(min=40, help="Number of prompts to label, with --file.")] = 3200,
    kind: Annotated[
        str, typer.Option(help="What to fit: counts (phrases), features (all), words (one weight per word).")
    ] = "words",
    out: Annotated[str, typer.Option(metavar="FILE.json", help="Write the weights, for hardness.source.")] = "",
    save_labels: Annotated[str, typer.Option(metavar="FILE.csv", help="Write the labels that were made.")] = "",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Number of held-out splits.")] = 5,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of prompts and images, with --file; use another than the profile's."),
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON.")] = False,
) -> None:
    """Fit a hardness scorer to labelled prompts; print how it and the other scorers do on held-out prompts."""
    from .session import FitOptions, run

    run(
        FitOptions(
            labels=labels,
            features=features,
            file=file,
            prompts=prompts,
            kind=kind,
            out=out,
            save_labels=save_labels,
            seeds=seeds,
            seed=seed,
            json=json,
        )
    )
