"""Notices that this process stood still, or that its server is gone; knows nothing of Triton, so that tests can run it.

Triton gives a model process up that shows no sign of life for a second when it hands it a batch, and answers for it.
Such a sign comes every 0.3 s, so standing still for 0.7 s can be enough. If the process wakes up and goes on as if
nothing had happened, it or the server (2.51) touches memory that is gone, and the server ends by a signal. So a process
that stands still must end before it wakes up, which takes another process, the keeper; and where that stood still as
well, before it says anything about a request that it has in hand.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

BEAT_S: Final = 0.1
LIMIT_S: Final = 0.6
"""Standing still for longer may have been noticed by the server: after 0.7 s, less what its own timer is late."""

WAKING_S: Final = 0.05
"""Who waits for Python's global lock is woken every 5 ms, and on a busy machine seldom less often than this."""

ORDINARY: Final = 4
"""Times at most that the thread goes to sleep in a beat when nobody holds that lock for long."""

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
        self._in_hand = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()
        self._keeper: subprocess.Popen[bytes] | None = None

    def guard(self) -> None:
        """From now on batches may come: start the keeper. Before, a device or a disk may hold the process up."""
        me = [str(os.getpid()), str(self._thread.native_id)]
        self._keeper = subprocess.Popen(["python3", "-I", "-S", __file__, *me], stdin=subprocess.DEVNULL)

    def came(self, requests: int) -> None:
        """Requests have come: until they are answered, standing still ends the process; just before, it does so now."""
        self.settle()
        with self._beaten:
            if time.monotonic() - self._stopped_s < FRESH_S:
                self._end("it stood still when a batch came, which the server may have given up")
            self._in_hand += requests

    def answered(self) -> None:
        """One request is in hand no more."""
        with self._beaten:
            self._in_hand -= 1

    def settle(self) -> None:
        """To be called before anything is said about a request: returns when the present moment has been judged."""
        with self._beaten:
            # A process that wakes up may get here before the thread that judges.
            late_s = self._last_s + LIMIT_S / 2
            if time.monotonic() > late_s:
                self._beaten.wait_for(lambda: self._last_s > late_s or self._closing.is_set())

    def close(self) -> None:
        """End the thread and the keeper."""
        self._closing.set()
        self._thread.join()
        if self._keeper is not None:
            self._keeper.wait()

    def _watch(self) -> None:
        switches = _switches()
        while not self._closing.wait(BEAT_S):
            before, switches = switches, _switches()
            with self._beaten:
                now_s = time.monotonic()
                awake_s = max(0, switches - before - ORDINARY) * WAKING_S
                if now_s - self._last_s - awake_s > LIMIT_S:
                    self._stopped_s = now_s
                    if self._in_hand:
                        self._end("it stood still with requests in hand, which the server may have given up")
                self._last_s = now_s
                self._beaten.notify_all()
            if os.getppid() != self._parent:
                self._end("its server is gone")


def _switches() -> int:
    """How often this thread has gone to sleep."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def keep(process: int, thread: int) -> None:
    """Ends a process when one of its threads, that sleeps and wakes all the time, has not done so for a second."""
    with open(f"/proc/{process}/task/{thread}/status", "rb", buffering=0) as status:
        handle = os.pidfd_open(process)
        seen, seen_s = status.read(), time.monotonic()
        while True:
            asleep_s = time.monotonic()
            time.sleep(BEAT_S)
            now_s = time.monotonic()
            status.seek(0)
            last, seen = seen, status.read()
            # Who stood still himself has not looked.
            if _woken(seen) != _woken(last) or now_s - asleep_s > LIMIT_S / 2:
                seen_s = now_s
            elif now_s - seen_s > LIMIT_S - BEAT_S:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                sys.stderr.write(f"model process {process} stood still for {now_s - seen_s:.1f} s and is ended\n")
                return


def _woken(status: bytes) -> bytes:
    """How often a thread has gone to sleep, as its status has it."""
    return status[status.index(b"\nvoluntary_ctxt_switches") :].split(b"\n")[1]


if __name__ == "__main__":
    # Ctrl-C is for those who started the server; and a thread that is gone needs no keeper.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(FileNotFoundError, ProcessLookupError):
        keep(int(sys.argv[1]), int(sys.argv[2]))
