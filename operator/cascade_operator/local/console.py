"""What the commands of local mode read and print."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cascade_api.command import CommandFailed

Say = Callable[[str], None]
"""Takes one line for a person."""


def read_text(file: Path) -> str:
    """A manifest's text; raises CommandFailed with exit code 2 where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"--file: cannot read {file}: {error.strerror}", code=2) from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"--file: {file} is not UTF-8 text: {error}", code=2) from None


def print_line(line: str) -> None:
    """Print a line with the time of day, at once, whoever reads."""
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
        sys.stdout.flush()
