"""Notices that this process stood still, or that its server is gone; knows nothing of Triton, so that tests can run it.

Triton gives a model process up that shows no sign of life for a second while it has a batch, and answers for it. If it
wakes up and goes on as if nothing had happened, the server (2.51) touches requests that are gone and ends by a
segmentation fault. So a process that stood still with a batch in hand must end instead of saying anything about it.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

BEAT_S: Final = 0.1
LIMIT_S: Final = 1.0
"""Standing still for longer may have been noticed by the server, which looks once a second."""

FRESH_S: Final = 1.0
"""A batch that comes so soon after standing still may have been sent, and given up, during it."""


class Pulse:
    """A thread that looks every 0.1 s; ``end`` is called with the reason, in any thread, and must end the process.

    Waiting for Python's global lock is not standing still: the thread is woken every few milliseconds then, and so is
    the one of Triton's stub that gives the signs of life.
    """

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._parent = os.getppid()
        self._beaten = threading.Condition()
        self._last_s = time.monotonic()
        self._stopped_s = float("-inf")
        self._working = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a batch is in hand, standing still ends the process; so it does just before one comes."""
        self.settle()
        with self._beaten:
            if time.monotonic() - self._stopped_s < FRESH_S:
                self._end("it stood still when a batch came, which the server may have given up")
            self._working = True
        try:
            yield
            self.settle()
        finally:
            with self._beaten:
                self._working = False

    def settle(self) -> None:
        """To be called before anything is said about a request: returns when the present moment has been judged."""
        with self._beaten:
            # A process that wakes up may get here before the thread that judges.
            late_s = self._last_s + LIMIT_S / 2
            if time.monotonic() > late_s:
                self._beaten.wait_for(lambda: self._last_s > late_s or self._closing.is_set())

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        switches = _switches()
        while not self._closing.wait(BEAT_S):
            before, switches = switches, _switches()
            with self._beaten:
                now_s = time.monotonic()
                awake_s = (switches - before) * sys.getswitchinterval()
                if now_s - self._last_s - awake_s > LIMIT_S:
                    self._stopped_s = now_s
                    if self._working:
                        self._end("it stood still with a batch in hand, which the server may have given up")
                self._last_s = now_s
                self._beaten.notify_all()
            if os.getppid() != self._parent:
                self._end("its server is gone")


def _switches() -> int:
    """How often this thread has gone to sleep."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
