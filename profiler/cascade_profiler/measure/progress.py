"""Reports how far a long measurement is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

import typer

EVERY_S = 2.0


class Progress:
    """Keeps the seconds that each step is expected to take; steps may correct them on the way."""

    def __init__(
        self,
        expected_s: dict[str, float],
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = typer.echo,
    ) -> None:
        self._expected_s = dict(expected_s)
        self._clock = clock
        self._write = write
        self._begun_s = self._said_s = clock()

    def done(self, step: str, result: str) -> None:
        """Report that a step is finished, with its result."""
        self._expected_s.pop(step, None)
        self._say(f"{step}: {result}")

    def at(self, step: str, share: float, remaining_s: float) -> None:
        """Note that a step has done ``share`` of its work and needs ``remaining_s`` more; report it every EVERY_S."""
        self._expected_s[step] = remaining_s
        if self._clock() - self._said_s >= EVERY_S:
            self._say(f"{step}: {share:.0%}")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun_s

    def _say(self, what: str) -> None:
        self._said_s = self._clock()
        left = round(sum(self._expected_s.values()))
        self._write(f"[{left // 60}:{left % 60:02d} left] {what}")
