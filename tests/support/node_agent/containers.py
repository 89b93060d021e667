"""One container of a pod: its process, probes, restarts and what the pod's status says of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from . import container as keeper
from .environment import Missing
from .probes import act, repeat
from .volumes import now

Object = dict[str, Any]
LONGEST_BACK_OFF_S = 20.0
STABLE_S = 60.0
"""A container that ran for this long is restarted without delay."""


@dataclass(frozen=True)
class Launch:
    """All that `container.py` needs, ready to run."""

    command: list[str]
    environment: dict[str, str]
    directory: str
    mounts: list[Object]
    hostname: str
    read_only_root: bool
    user: int | None
    """The user's number as the command sees it; None: who runs the agent."""

    def to_json(self, root: Path) -> str:
        return json.dumps(
            {
                "command": self.command,
                "environment": self.environment,
                "directory": self.directory,
                "mounts": self.mounts,
                "hostname": self.hostname,
                "readOnlyRoot": self.read_only_root,
                "user": self.user,
                "root": str(root),
            }
        )


class Container:
    """A container that runs, is probed and restarted until it is stopped or done."""

    def __init__(
        self,
        definition: Object,
        *,
        directory: Path,
        address: str,
        restart: str,
        prepare: Callable[[Object], Awaitable[Launch]],
        changed: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self.definition = definition
        self.name = str(definition["name"])
        self.log = directory / f"{self.name}.log"
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.restarts = 0
        self.started = False
        self.ready = False
        self.exit_code: int | None = None
        self._directory = directory
        self._address = address
        self._restart = restart
        self._prepare = prepare
        self._changed = changed
        self._spawn = spawn
        self._killing: asyncio.Task[Any] | None = None
        self._launch: Launch | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The host's process id of the command, or None while it does not run."""
        if self._process is None or self._process.returncode is not None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            return next((child.pid for child in psutil.Process(self._process.pid).children()), None)
        return None

    @property
    def command(self) -> psutil.Process:
        """The command, which runs."""
        pid = self.pid
        assert pid is not None, f"{self.name} does not run: {self.state}"
        return psutil.Process(pid)

    async def run(self) -> None:
        """Until it is stopped, or ended in a way after which it is not restarted."""
        delay_s = 0.0
        while not self._stopping.is_set():
            begun = time.monotonic()
            code = await self._run_once()
            self.exit_code = code
            if self._stopping.is_set() or self._restart == "Never" or (self._restart == "OnFailure" and code == 0):
                return
            if time.monotonic() - begun > STABLE_S:
                delay_s = 0.0
            if delay_s:
                self._report({"waiting": {"reason": "CrashLoopBackOff", "message": f"for {delay_s} s"}})
            await self._pause(delay_s)
            delay_s = min(max(1.0, delay_s * 2), LONGEST_BACK_OFF_S)
            self.restarts += 1

    async def stop(self, grace_s: float) -> None:
        """Run its preStop handler, then SIGTERM, then SIGKILL when the grace period is over."""
        self._stopping.set()
        deadline = time.monotonic() + grace_s
        handler = (self.definition.get("lifecycle") or {}).get("preStop")
        if handler and self.pid is not None and grace_s > 0:
            await self._act(handler, within_s=grace_s)
        await self._end(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """SIGKILL, from any thread."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def status(self) -> Object:
        """Its entry of the pod's containerStatuses."""
        image = self.definition["image"]
        return {
            "name": self.name,
            "image": image,
            "imageID": image,
            "containerID": f"process://{self._process.pid}" if self._process else "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            # A strategic merge patch keeps what it is not told to remove.
            "state": {kind: self.state.get(kind) for kind in ("waiting", "running", "terminated")},
            "lastState": {kind: self.last_state.get(kind) for kind in ("waiting", "running", "terminated")},
        }

    async def _run_once(self) -> int:
        try:
            self._launch = await self._prepare(self.definition)
        except (Missing, KeyError) as error:
            reason = "ErrImagePull" if isinstance(error, KeyError) else "CreateContainerConfigError"
            self._report({"waiting": {"reason": reason, "message": str(error)}})
            await self._pause(1.0)
            return 1
        root = self._directory / f"{self.name}.root"
        root.mkdir(exist_ok=True)
        specification = self._directory / f"{self.name}.json"
        specification.write_text(self._launch.to_json(root))
        with self.log.open("ab") as log:
            command = [sys.executable, "-I", "-S", keeper.__file__, str(specification)]
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        begun = now()
        self._report({"running": {"startedAt": begun}})
        probing = self._spawn(self._probe())
        try:
            code = await self._process.wait()
        finally:
            probing.cancel()
        self.started = self.ready = False
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "startedAt": begun, "finishedAt": now()}
        self.last_state = {"terminated": ended}
        self._report({"terminated": ended})
        return code

    async def _probe(self) -> None:
        startup = self.definition.get("startupProbe")
        if startup:
            up = asyncio.Event()
            asking = self._spawn(self._repeat(startup, passed=up.set, failed=self._unhealthy))
            try:
                await up.wait()
            finally:
                asking.cancel()
        self.started = True
        readiness, liveness = (self.definition.get(f"{kind}Probe") for kind in ("readiness", "liveness"))
        self._set_ready(readiness is None)
        probes = []
        if readiness:
            probes.append(
                self._repeat(readiness, passed=lambda: self._set_ready(True), failed=lambda: self._set_ready(False))
            )
        if liveness:
            probes.append(self._repeat(liveness, passed=lambda: None, failed=self._unhealthy))
        await asyncio.gather(*probes)

    async def _repeat(self, probe: Object, *, passed: Callable[[], None], failed: Callable[[], None]) -> None:
        within_s = probe.get("timeoutSeconds", 1)
        await repeat(probe, attempt=lambda: self._act(probe, within_s=within_s), passed=passed, failed=failed)

    async def _act(self, handler: Object, *, within_s: float) -> bool:
        return await act(
            handler, container=self.definition, address=self._address, execute=self._execute, within_s=within_s
        )

    async def _execute(self, command: list[str]) -> int:
        """Run a command in the container's namespaces."""
        pid = self.pid
        if pid is None or self._launch is None:
            return 1
        own = os.geteuid() or self._launch.user
        user = ["--user", "--preserve-credentials"] if own else []
        inside = ["nsenter", "--target", str(pid), "--mount", "--pid", "--uts", *user, "--root", "--wd", *command]
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *inside, env=self._launch.environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await self._end_tree(process)

    async def _end_tree(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    def _unhealthy(self) -> None:
        """A startup or liveness probe failed too often: the process is ended, and so restarted."""
        if self._killing is None or self._killing.done():
            self._killing = self._spawn(self._end(5.0))

    async def _end(self, grace_s: float) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        if grace_s > 0:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace_s)
        if process.returncode is None:
            self.kill()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self._changed()

    def _report(self, state: Object) -> None:
        self.state = state
        self._changed()
