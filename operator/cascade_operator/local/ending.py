"""`cascade down`: ends the run of a state directory, and cleans up after one that crashed."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

from cascade_api.command import CommandFailed

from .console import Say
from .state import AlreadyRunning, Lock, StateDir


def stop(state: StateDir, *, say: Say, timeout_s: float = 30.0) -> None:
    """End the run that holds a state directory, and clean up after one that crashed; raises CommandFailed.

    If the run does not end within ``timeout_s``, it is killed; then its plan stays in a Redis that the user named.
    """
    pid = state.holder()
    if pid is None:
        _tidy(state, say)
        return
    began = told = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while state.holder() == pid:
        now = time.monotonic()
        if now - began > timeout_s:
            say(f"process {pid} does not end: killing it")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            began = now
        elif now - told > 2.0:
            told = now
            say(f"waiting for process {pid} to end")
        time.sleep(0.05)
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(pid).wait(timeout=3)
    left = state.crashed() is not None
    say(f"stopped (process {pid})")
    if left:
        _tidy(state, say)


def _tidy(state: StateDir, say: Say) -> None:
    crashed = state.crashed()
    left = crashed is not None or state.processes() or state.segments()
    if not (left and state.lock_file.is_file()):
        # Other files in the directory may belong to somebody else.
        say(f"nothing runs from {state.path}")
        return
    try:
        lock = Lock(state)
    except AlreadyRunning as other:
        raise CommandFailed(f"process {other.pid} has just started from {state.path}") from None
    done = state.sweep()
    lock.release()
    say(f"process {crashed} had ended without cleaning up" if crashed else "nothing was running any more")
    for line in done:
        say(line)
