"""How a run of `cascade up` reports its start: on the terminal, and to a process that waits until it is ready."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import IO, Any

from cascade_api.command import CommandFailed

from .console import print_line


class StartupReporter:
    """Prints lines, and also writes them to a pipe as JSON until the run is ready or has failed."""

    def __init__(self, pipe: IO[str] | None) -> None:
        self._pipe = pipe

    def say(self, line: str) -> None:
        """Print one line for the user."""
        print_line(line)
        self._send({"say": line})

    def ready(self, greeting: str) -> None:
        """Report that the run serves."""
        if self._pipe is None:
            with contextlib.suppress(OSError):
                print(greeting, flush=True)
        self._send({"ready": greeting})
        self._close()

    def failed(self, message: str, *, code: int) -> None:
        """Report that the run ended before it was ready."""
        self._send({"failed": message, "code": code})
        self._close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._pipe is not None:
            try:
                self._pipe.write(json.dumps(message) + "\n")
            except OSError:
                self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._pipe.close()
            self._pipe = None


@contextlib.contextmanager
def reporter_for(descriptor: int) -> Iterator[StartupReporter]:
    """A reporter to the pipe ``descriptor`` (below 0: none), which also reports errors that a user can correct."""
    reporter = StartupReporter(os.fdopen(descriptor, "w", buffering=1) if descriptor >= 0 else None)
    try:
        yield reporter
    except CommandFailed as failure:
        reporter.failed(str(failure), code=failure.code)
        raise
