"""The clock of a simulation: a heap of actions, ordered by their times."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Events:
    """Runs actions in the order of their times; actions of the same time run in the order of their scheduling."""

    def __init__(self, *, start_s: float = 0.0) -> None:
        self.now = start_s
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._stopped = False

    def at(self, when: float, action: Callable[[Any], None], subject: Any = None) -> None:
        """Schedule ``action(subject)`` at a time, or at once if that time has passed."""
        self._number += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._number, action, subject))

    def stop(self) -> None:
        """Run no more actions after the present one."""
        self._stopped = True

    def run(self) -> None:
        """Run actions until stopped, or until none is left."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self._stopped:
            when, _, action, subject = pop(heap)
            self.now = when
            action(subject)
