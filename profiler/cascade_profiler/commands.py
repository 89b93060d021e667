"""The profiler's subcommands of `cascade`; each module registers its own."""

from __future__ import annotations

import typer

from .load import command as load
from .measure import command as measure


def register(app: typer.Typer) -> None:
    """Adds this component's commands to `cascade`."""
    load.register(app)
    measure.register(app)
