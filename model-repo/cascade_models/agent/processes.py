"""Processes on this machine: on which core they run, when they end, and which are left of a server that was killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cascade_models.agent.installation import LaunchError

_PR_SET_PDEATHSIG: Final = 1
_STUB: Final = b"triton_python_backend_stub"


def pin_to_core(core: int) -> None:
    """Keep this process and those that it starts to one core; raises LaunchError where it may not."""
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise LaunchError(f"--core: core {core} is not available here: use one of {allowed}") from None


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the process that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def tied_to(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec so that it is killed when its parent ends, however that ends.

    The library is loaded before the fork, since the parent may have threads.
    """
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def end_orphans(prefix: str, processes: Path = Path("/proc")) -> int:
    """Kill model processes whose shared memory has names with this prefix: their server is gone. Returns how many."""
    ended = 0
    for folder in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(_STUB) and any(word.startswith(prefix.encode()) for word in words):
                os.kill(int(folder.name), signal.SIGKILL)
                ended += 1
    return ended


def bury_orphans(processes: Path = Path("/proc")) -> int:
    """Collect the exit status of dead children, while no child of one's own runs. Returns how many there were.

    The first process of a container gets every process there whose parent has ended: the model processes of a Triton
    that was killed. Nobody else asks for their status, and they would stay as zombies, each with its process id.
    """
    buried = 0
    for child in _children(os.getpid(), processes):
        with contextlib.suppress(ChildProcessError):
            buried += os.waitpid(child, os.WNOHANG)[0] == child
    return buried


def has_child(parent: int, part: str, processes: Path = Path("/proc")) -> bool:
    """Whether a process has a child that runs, with this in its command line."""
    for child in _children(parent, processes):
        with contextlib.suppress(OSError):
            if part.encode() in (processes / str(child) / "cmdline").read_bytes():
                return True
    return False


def _children(parent: int, processes: Path) -> list[int]:
    """The children of a process, by the kernel's own list."""
    found: list[int] = []
    for file in processes.glob(f"{parent}/task/*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
