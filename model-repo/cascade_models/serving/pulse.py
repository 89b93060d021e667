"""Notices that this process stood still, or that its server is gone; knows nothing of Triton, so that tests can run it.

Triton gives a model process up that shows no sign of life for a second, and answers for it. If it wakes up and goes on
as if nothing had happened, the server (2.51) touches requests that are gone and ends by a segmentation fault. So a
process that stood still must end instead of saying anything about the requests that it had in hand.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

BEAT_S: Final = 0.1
LIMIT_S: Final = 1.0
"""Standing still for longer may have been noticed by the server, which looks once a second."""

FRESH_S: Final = 1.0
"""A request that comes so soon after standing still may have been sent, and given up, during it."""


class Pulse:
    """A thread that looks every 0.1 s; ``end`` is called with the reason, in any thread, and should end the process.

    Waiting for Python's global lock is not standing still: the thread is woken every few milliseconds then, and so is
    the one of Triton's stub that gives the signs of life.
    """

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self._parent = os.getppid()
        self._beaten = threading.Condition()
        self._last_s = time.monotonic()
        self._stops = 0
        self._stopped_s = float("-inf")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()

    def begin(self) -> int:
        """What to `check` requests by that have just arrived; ends a process that stood still a moment ago."""
        stops = self._settled()
        if time.monotonic() - self._stopped_s < FRESH_S:
            self._end("this process stood still when a request came, and the server may have given it up")
        return stops

    def check(self, begun: int) -> None:
        """To be called before anything is said about a request; ends a process that stood still since `begin`."""
        if self._settled() != begun:
            self._end("this process stood still with requests in hand, and the server may have given them up")

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _settled(self) -> int:
        """How often the process stood still, the present moment included."""
        with self._beaten:
            # A process that wakes up may get here before the thread that judges.
            late_s = self._last_s + LIMIT_S / 2
            if time.monotonic() > late_s:
                self._beaten.wait_for(lambda: self._last_s > late_s or self._closing.is_set())
            return self._stops

    def _watch(self) -> None:
        switches = _switches()
        while not self._closing.wait(BEAT_S):
            before, switches = switches, _switches()
            with self._beaten:
                now_s = time.monotonic()
                awake_s = (switches - before) * sys.getswitchinterval()
                if now_s - self._last_s - awake_s > LIMIT_S:
                    self._stops += 1
                    self._stopped_s = now_s
                self._last_s = now_s
                self._beaten.notify_all()
            if os.getppid() != self._parent:
                self._end("the server is gone")


def _switches() -> int:
    """How often this thread has gone to sleep."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
