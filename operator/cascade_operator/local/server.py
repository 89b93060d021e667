"""A Triton server as a child process: it starts with one model, can change to another in place, and ends without
leaving anything behind."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cascade_api.names import START_TIMEOUT_S
from cascade_api.worker_requests import Parameters

from .logs import log_tail
from .state import SHARED_MEMORY, StateDir
from .supervisor import Child, Program, describe_exit
from .triton import TritonClient, why_not_loaded

PROVE_TIMEOUT_S: Final = 60.0

ServerProgram = Callable[[str, str, str], Program]
"""Makes the program of a server from slot id, endpoint and model."""

_numbers = itertools.count(1)
"""Every server's socket has a new name, so that clients of an earlier server do not reach it."""


class ServerFailed(Exception):
    """A server ended, or did not start; the message says how."""


class Server:
    """A running server and the one model that it serves."""

    def __init__(self, child: Child, *, endpoint: str, model: str, segments: str, log_file: Path) -> None:
        self.child = child
        self.endpoint = endpoint
        self.model = model
        self.client = TritonClient(endpoint)
        self._segments = segments
        self._log_file = log_file

    @classmethod
    async def start(cls, slot_id: str, model: str, *, program: ServerProgram, state: StateDir) -> Server:
        """Start a server with a model, on a Unix socket; raises ServerFailed or OSError."""
        endpoint = f"unix:{state.sockets / slot_id}:{next(_numbers)}"
        running = program(slot_id, endpoint, model)
        server = cls(
            await Child.start(running, state),
            endpoint=endpoint,
            model=model,
            segments=f"{state.replica_id(slot_id)}.*",
            log_file=state.log_file(running.name),
        )
        try:
            await server._wait_ready()
        except BaseException:
            await asyncio.shield(server.end())
            raise
        return server

    async def change_model(self, model: str) -> None:
        """Serve another model, or load the same one again; raises TritonError."""
        await self.client.unload(self.model)
        self.model = model
        await self.client.load(model)

    async def prove(self, parameters: Parameters) -> None:
        """Wait until the model has drawn a picture by these settings; raises TritonError where it cannot."""
        await self.client.probe(self.model, parameters, timeout_s=PROVE_TIMEOUT_S)

    def check_running(self) -> None:
        """Raise ServerFailed if the process has ended."""
        if not self.child.running:
            raise ServerFailed(f"its server ended ({describe_exit(self.child.ended.result())})")

    async def end(self) -> None:
        """Kill the process, and remove what it leaves behind.

        An orderly end would take one to two seconds and is not needed: a server has no state, and it was drained
        before.
        """
        await self.client.close()
        await self.child.stop(grace_s=0)
        self._remove_traces()

    def _remove_traces(self) -> None:
        for trace in (*SHARED_MEMORY.glob(self._segments), Path(self.endpoint.removeprefix("unix:"))):
            trace.unlink(missing_ok=True)

    async def _wait_ready(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            if not self.child.running:
                if why := why_not_loaded(log_tail(self._log_file)):
                    raise ServerFailed(f"its model cannot be loaded: {why}")
                how = describe_exit(self.child.ended.result())
                tail = log_tail(self._log_file, 4)
                raise ServerFailed(f"its server did not start ({how}); {self._log_file}:\n{tail}")
            if await self.client.model_ready(self.model):
                return
            await asyncio.wait([self.child.ended], timeout=0.05)
        raise ServerFailed(f"its server was not ready within {START_TIMEOUT_S} s; see {self._log_file}")


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
