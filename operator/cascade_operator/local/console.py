"""How the commands of local mode print."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

Say = Callable[[str], None]
"""Called with one line for the user."""


def print_line(line: str) -> None:
    """Print a line with the time of day at once; if nobody reads the output, nothing fails."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
