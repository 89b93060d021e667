"""A real `cascade up` in its own state directory, on free ports; and a check for what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cascade_api.command import CommandFailed
from cascade_api.local import read_addresses
from cascade_operator.local import overview
from cascade_operator.local.state import StateDir

from .processes import children, command_of, runs
from .triton import shapes_manifest
from .waiting import wait_for

CASCADE = Path(sys.executable).parent / "cascade"
ROOT = Path(__file__).parents[2]
PROMPT = "a small red circle left of a large blue square"
ANY_PORTS = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
PATIENT = "60s"
"""A deadline for requests that are to be answered however busy the machine is."""
HUNG_S = 600.0
"""A command that takes longer is considered to hang."""


class LocalRun:
    """One state directory and the commands on it."""

    def __init__(self, directory: Path, *, manifest: str | None = None) -> None:
        self.directory = directory
        self.state = StateDir(directory / "state")
        self.manifest = directory / "cascade.yaml"
        self.manifest.write_text(manifest if manifest is not None else shapes_manifest(hosting="shared"))
        self._known: set[psutil.Process] = set()

    def cascade(self, *arguments: str, timeout_s: float = HUNG_S) -> subprocess.CompletedProcess[str]:
        """Run `cascade …` on this state directory to its end."""
        command = [str(CASCADE), *arguments, "--state-dir", str(self.state.path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def up(self, *arguments: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`cascade up --detach` on free ports; the caller looks at the exit code."""
        done = self.cascade("up", "--detach", "-f", str(file or self.manifest), *ANY_PORTS, *arguments)
        self.remember()
        return done

    def down(self) -> subprocess.CompletedProcess[str]:
        self.remember()
        return self.cascade("down")

    def generate(self, file: Path | None = None) -> dict[str, Any]:
        """One picture through the running service; how it was made."""
        file = file or self.directory / "picture.png"
        done = self.cascade("generate", PROMPT, "-o", str(file), "--json", "--deadline", PATIENT)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def status(self) -> dict[str, Any]:
        """`cascade status --json`."""
        done = self.cascade("status", "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def look(self) -> dict[str, Any]:
        """The same without the cost of a command, or {} while there is nothing to see."""
        try:
            return dict(json.loads(overview.as_json(overview.collect(self.state))))
        except CommandFailed:
            return {}

    def whole(self) -> bool:
        """Whether Redis and a router answer, and every pool has the replicas that it should."""
        cascades = self.look().get("cascades") or [{}]
        pools = cascades[0].get("pools") or []
        healthy = all(pool["ready"] >= pool["desired"] for pool in pools)
        return bool(pools) and bool(cascades[0].get("routers")) and healthy

    def start_load(self, *arguments: str) -> subprocess.Popen[str]:
        """`cascade load --json` beside the test."""
        command = [str(CASCADE), "load", "--json", "--state-dir", str(self.state.path), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def supervisor(self) -> int | None:
        return self.state.holder()

    def pid(self, name: str) -> int | None:
        """Process id of a child: redis, router, cpu-0 (its agent), …; or of ``triton`` or a ``stub`` of cpu-0."""
        pids = self.state.read_pids()
        if name not in ("triton", "stub"):
            return pids.get(name)
        agent = children(pids["cpu-0"]) if "cpu-0" in pids else []
        found = agent if name == "triton" else [stub for server in agent for stub in children(server.pid)]
        return next((process.pid for process in found), None)

    def kill(self, name: str) -> int:
        """SIGKILL a child; its process id."""

        def killed() -> int | None:
            pid = self.pid(name)
            with contextlib.suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    return pid
            return None

        return wait_for(killed, what=f"a {name} to kill")

    def remember(self) -> None:
        """Note the processes that run now, to know them again when they should be gone."""
        supervisor = self.supervisor
        if supervisor is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._known |= {psutil.Process(supervisor), *children(supervisor, recursive=True)}

    def check_gone(self) -> None:
        """Wait until nothing of this run is left; what was killed takes a moment to go."""
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self._leftovers(), what="nothing to be left")
        assert self._leftovers() == []

    def _leftovers(self) -> list[str]:
        """Processes and shared memory of this run that are still there."""
        found = [f"process {p.pid} {command_of(p)}" for p in {*self._known, *self.state.processes()} if runs(p)]
        found += [f"segment {segment}" for segment in self.state.segments()]
        found += [f"sockets {folder}" for folder in Path(tempfile.gettempdir()).glob(f"{self.state.instance}.*")]
        addresses = read_addresses(self.state.path)
        return found + ([f"addresses {addresses}"] if addresses else [])

    def end(self) -> None:
        """End everything of this run, whatever happened."""
        self.remember()
        self.cascade("down")
        for process in self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def local_run(tmp_path: Path) -> Iterator[LocalRun]:
    """A state directory in which nothing runs yet."""
    run = LocalRun(tmp_path)
    yield run
    run.end()


@contextmanager
def running(directory: Path, *, manifest: str | None = None) -> Iterator[LocalRun]:
    """A run that is ready, and ended afterwards."""
    run = LocalRun(directory, manifest=manifest)
    try:
        done = run.up()
        assert done.returncode == 0, done.stdout + done.stderr
        yield run
    finally:
        run.end()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """A ready run, shared by the tests of a module."""
    with running(tmp_path_factory.mktemp("serving")) as run:
        yield run
