"""The clock of a simulation: a heap of what happens when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Events:
    """Runs actions in the order of their times, those of one time in the order in which they were asked for."""

    def __init__(self, *, start_s: float = 0.0) -> None:
        self.now = start_s
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._stopped = False

    def at(self, when: float, action: Callable[[Any], None], subject: Any = None) -> None:
        """Have ``action(subject)`` happen at a time, at once if that has passed."""
        self._number += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._number, action, subject))

    def stop(self) -> None:
        """Let nothing more happen after the present action."""
        self._stopped = True

    def run(self) -> None:
        """Go on until stopped, or nothing is left to happen."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self._stopped:
            when, _, action, subject = pop(heap)
            self.now = when
            action(subject)
