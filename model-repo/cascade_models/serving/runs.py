"""The thread that makes images: one run at a time, and between two of its steps whatever goes first.

One thread does, and is safe: networks, samplers and engines are not thread-safe, and an overtaken run needs only the
memory of its unfinished images while another one is made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic

from cascade_models.serving.turns import RequestT, Turns


class Runs(Generic[RequestT]):
    """Makes all runs of a process; thread-safe.

    Args:
        make: draws and answers the requests of a run, and calls `turn` before each step; raises nothing.
        waiting: images that wait, at most; whoever brings more waits himself.
    """

    def __init__(self, make: Callable[[Sequence[RequestT]], None], turns: Turns[RequestT], *, waiting: int) -> None:
        self._make = make
        self._turns = turns
        self._waiting = waiting
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="runs", daemon=True)
        self._thread.start()

    def ask(self, requests: Sequence[RequestT]) -> None:
        """Have requests drawn; returns when they are taken, which is at once unless too many wait already."""
        with self._changed:
            self._changed.wait_for(lambda: self._turns.images_waiting < self._waiting)
            self._turns.wait(requests)
            self._changed.notify_all()

    def turn(self) -> float:
        """Let go first what goes first: for a run, before each of its steps. Returns the seconds that it waited."""
        began = time.perf_counter()
        while run := self._next():
            self._draw(run)
        return time.perf_counter() - began

    def shrink(self) -> str:
        """For a run that ran out of memory: less is in flight from now on. Says what may be."""
        with self._changed:
            return self._turns.shrink()

    def close(self) -> None:
        """Make what was asked for, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while run := self._next(wait=True):
            self._draw(run)

    def _next(self, *, wait: bool = False) -> list[RequestT]:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closing or self._turns.images_waiting > 0)
            run = self._turns.begin()
            if run:
                self._changed.notify_all()
            return run

    def _draw(self, run: Sequence[RequestT]) -> None:
        try:
            self._make(run)
        finally:
            with self._changed:
                self._turns.end()
