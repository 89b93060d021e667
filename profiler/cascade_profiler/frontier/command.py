"""`cascade frontier`: which rows of a profile are worth using."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `cascade frontier`."""
    app.command()(frontier)


def frontier(
    profile: Annotated[str, typer.Argument(help="A file with a CascadeProfile, or a reference profile (hadis-726).")],
    plot: Annotated[str, typer.Option(metavar="FILE.html", help="Also draw it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Print the hull of accelerator-seconds per image against quality, for each class, at batch 1.

    Mixing two neighbouring rows gives every point between them.
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
