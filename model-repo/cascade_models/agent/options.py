"""Options that `cascade-triton` and `cascade-triton agent` have in common."""

from __future__ import annotations

import argparse

from cascade_models.agent.command_line import EXIT_TIMEOUT_S
from cascade_models.agent.setting_up import default_environment


def add(parser: argparse.ArgumentParser) -> None:
    """Add them to a command line."""
    parser.add_argument("--replica-id", default="replica", metavar="ID", help="names the server and its shared memory")
    parser.add_argument("--core", type=int, metavar="N", help="run on this core only")
    parser.add_argument(
        "--exit-timeout",
        type=int,
        default=EXIT_TIMEOUT_S,
        metavar="S",
        help="how long a server that is told to end finishes what it has in hand",
    )
    parser.add_argument(
        "--triton-env",
        default=default_environment(),
        metavar="VENV",
        help="environment with nvidia-pytriton (default: $CASCADE_TRITON_ENV, else .venv-triton beside this one, else "
        "what `cascade-triton setup` makes)",
    )
