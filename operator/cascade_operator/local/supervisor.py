"""Child processes of local mode. Each has its own process group and log, ends with this process, and is restarted when
it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from cascade_api.backoff import pause_s
from cascade_api.command import CommandFailed

from . import tether
from .logs import log_tail
from .state import StateDir

log = structlog.get_logger(__name__)

STEADY_S: Final = 5.0
"""A child that ran for longer is restarted at once; one that dies sooner is restarted after growing pauses."""
RETURN_S: Final = 60.0
"""For this long, a restarted program is asked whether it serves, so that its return can be reported."""


@dataclass(frozen=True)
class Program:
    """What to run: ``name`` names its log and pid file; ``nice`` is added to the process's nice value."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0


class Child:
    """One run of a program, with its own process group."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process, state: StateDir) -> None:
        self._program = program
        self._process = process
        self._state = state
        self.started = time.monotonic()
        self.ended = asyncio.ensure_future(self._end())
        """Completes with the exit status when the process and its group have ended."""

    @classmethod
    async def start(cls, program: Program, state: StateDir) -> Child:
        """Start a program; its output is appended to its log."""
        arguments = (sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), str(program.nice))
        with state.log_file(program.name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                *program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **program.environment},
                start_new_session=True,
            )
        state.write_pid(program.name, process.pid)
        return cls(program, process, state)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return not self.ended.done()

    async def stop(self, *, grace_s: float) -> None:
        """End the process by SIGTERM, and after ``grace_s`` seconds (0: at once) by SIGKILL."""
        if self.running and grace_s > 0:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait([self.ended], timeout=grace_s)
        if self.running:
            self.kill()
        await asyncio.wait([self.ended])

    def kill(self) -> None:
        """Kill the process and all processes that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _end(self) -> int:
        status = await self._process.wait()
        # Processes that it started (Triton's stubs) are still in its group, which outlives its leader.
        self.kill()
        self._state.forget_pid(self._program.name)
        return status


class Backoff:
    """How long to wait before a program is started again."""

    def __init__(self) -> None:
        self.failures = 0

    def after(self, ran_s: float) -> float:
        """Seconds to wait after a run of ``ran_s`` seconds."""
        if ran_s >= STEADY_S:
            self.failures = 0
        wait = pause_s(self.failures)
        self.failures += 1
        return wait


class Supervised:
    """A program that is restarted whenever it ends, until it is stopped."""

    def __init__(
        self,
        program: Callable[[], Program],
        *,
        state: StateDir,
        ready: Callable[[], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        """``program`` is called at each start; ``ready`` says whether the program serves."""
        self._program = program
        self._state = state
        self._ready = ready
        self._say = say
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.restarts = 0

    async def start(self, *, timeout_s: float) -> None:
        """Start it and wait until it serves; raises ChildFailed if it does not."""
        program = self._program()
        self._child = await Child.start(program, self._state)
        if not await self._wait_ready(self._child, timeout_s):
            tail = log_tail(self._state.log_file(program.name))
            how = "does not answer" if self._child.running else f"ended with status {self._child.ended.result()}"
            raise ChildFailed(f"{program.name} {how}; the end of {self._state.log_file(program.name)}:\n{tail}")
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {program.name}")

    async def stop(self, *, grace_s: float) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._child is not None:
            await self._child.stop(grace_s=grace_s)

    def kill(self) -> None:
        """Kill it now; call `stop` afterwards."""
        if self._child is not None:
            self._child.kill()

    async def _keep(self) -> None:
        backoff = Backoff()
        while self._child is not None:
            # `asyncio.wait` instead of awaiting it, so that a cancellation here does not cancel it.
            await asyncio.wait([self._child.ended])
            status = self._child.ended.result()
            name = self._program().name
            ran_s = time.monotonic() - self._child.started
            wait_s = backoff.after(ran_s)
            began = time.monotonic()
            self._say(f"{name} ended ({describe_exit(status)}): starting it again")
            await asyncio.sleep(wait_s)
            self.restarts += 1
            self._child = await Child.start(self._program(), self._state)
            if await self._wait_ready(self._child, RETURN_S):
                self._say(f"{name} is back after {time.monotonic() - began:.1f} s")

    async def _wait_ready(self, child: Child, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while child.running and time.monotonic() < until:
            if await self._ready():
                return True
            await asyncio.wait([child.ended], timeout=0.05)
        return False


class ChildFailed(CommandFailed):
    """A child could not be started; the message says why."""


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status}"


def script(name: str) -> str:
    """The path of a command of this environment; raises ChildFailed if it is not installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ChildFailed(f"no command {name} beside {sys.executable}: install diffusion-cascade[local] again")
    return str(path)
