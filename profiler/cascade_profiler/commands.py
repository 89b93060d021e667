"""The profiler's subcommands of `cascade`; each module registers its own."""

from __future__ import annotations

import typer

from .explore import command as explore
from .fit import command as fit
from .frontier import command as frontier
from .load import command as load
from .measure import command as measure
from .simulate import command as simulate
from .watch import command as watch
from .watch import explaining


def register(app: typer.Typer) -> None:
    """Add this component's commands to `cascade`."""
    explore.register(app)
    fit.register(app)
    frontier.register(app)
    load.register(app)
    measure.register(app)
    simulate.register(app)
    watch.register(app)
    explaining.register(app)
