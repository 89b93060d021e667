"""`cascade explain`: why a local run's cascades are served as they are; for a cluster, `kubectl cascade explain`."""

from __future__ import annotations

import json as encoder
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Optional

import typer

from cascade_api.command import CommandFailed
from cascade_api.console import CascadeView
from cascade_api.local import default_state_dir

DECISIONS_SHOWN: Final = 5


def register(app: typer.Typer) -> None:
    """Add `cascade explain`."""
    app.command()(explain)


def explain(
    name: Annotated[str, typer.Argument(help="Cascade to explain; default: all of them.", show_default=False)] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads the annotation at run time, on Python 3.10 too
        typer.Option(help="State directory of the local run.", show_default=False),
    ] = None,
) -> None:
    """Say why the local run's cascades run what they run, what keeps them from being better, and the last decisions.

    On a cluster, `kubectl cascade explain` does this.
    """
    from cascade_operator import explain as explaining
    from cascade_operator.local import overview
    from cascade_operator.local.state import StateDir

    from .source import Source

    seen = overview.collect(StateDir(state_dir or default_state_dir()))
    views = {view.cascade: view for view in Source(f"http://{seen.addresses.http}").look().cascades}
    wanted = [each for each in seen.cascades if name in ("", each.ref.name, str(each.ref))]
    if not wanted:
        served = ", ".join(each.ref.name for each in seen.cascades)
        raise CommandFailed(f"there is no cascade {name!r} in the local run; there is: {served}", code=2)
    found = [
        explaining.Explained(each.ref, each.status, each.seen.plan if each.seen is not None else None, [])
        for each in wanted
    ]
    if json:
        typer.echo(encoder.dumps([explaining.as_data(each) for each in found], indent=2))
        return
    for each in found:
        typer.echo(explaining.as_text(each))
        for line in decisions(views.get(str(each.ref))):
            typer.echo(line)


def decisions(view: CascadeView | None) -> Iterator[str]:
    """The latest decisions that a router has seen, the newest first, as lines below an explanation."""
    if view is None:
        yield "  no router serves it"
        return
    for each in reversed(view.decisions[-DECISIONS_SHOWN:]):
        yield f"  decided   {time.strftime('%H:%M:%S', time.localtime(each.at_ms / 1000))} {each.why}"
