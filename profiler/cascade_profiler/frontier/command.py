"""`cascade frontier`: shows which rows of a profile are worth using."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `cascade frontier`."""
    app.command()(frontier)


def frontier(
    profile: Annotated[str, typer.Argument(help="A file with a CascadeProfile, or a reference profile (hadis-726).")],
    plot: Annotated[str, typer.Option(metavar="FILE.html", help="Also draw the hull.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Print the hull of accelerator-seconds per image against quality, for each class, at batch 1.

    If some prompts are served by one row and the rest by its neighbour, quality and time lie between those of the two.
    """
    from .listing import drawing, listing

    text, data, drawn = listing(profile)
    if plot:
        drawing(plot, drawn)
    if json:
        import json as encoder

        typer.echo(encoder.dumps(data, indent=2))
    else:
        typer.echo(text)
