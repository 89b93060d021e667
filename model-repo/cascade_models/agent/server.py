"""A tritonserver as a child of the agent: it begins without models, and ends without leaving anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cascade_models.agent.addresses import ServerAddress, check_address_is_free, free_socket
from cascade_models.agent.command_line import (
    Frontends,
    server_command,
    sweep_shared_memory,
)
from cascade_models.agent.installation import Installation, server_environment, server_folder
from cascade_models.agent.processes import bury_orphans, describe_exit, end_orphans, has_child, tied_to
from cascade_models.agent.triton_http import TritonHttp

START_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.02
_KILL_AFTER_S: Final = 5.0
"""How much longer than it was given a server may take to end."""


class ServerFailed(Exception):
    """A server ended, did not start, or hangs; the message says how."""


@dataclass(frozen=True)
class ServerOptions:
    """Where servers are started, and how they are reached.

    ``grpc`` with port 0 is a Unix socket to whose path each server adds a number of its own, so that clients of an
    earlier one do not reach it.
    """

    installation: Installation
    repository: Path
    grpc: ServerAddress
    http: Path
    metrics: ServerAddress | None
    replica_id: str
    exit_timeout_s: int


class Server:
    """A running server."""

    def __init__(
        self, process: asyncio.subprocess.Process, address: ServerAddress, client: TritonHttp, options: ServerOptions
    ) -> None:
        self._process = process
        self._options = options
        self._address = address
        self.endpoint = str(address)
        self.client = client
        self.ended: asyncio.Future[int] = asyncio.ensure_future(process.wait())
        """Completes with the exit status."""

    @classmethod
    async def start(cls, options: ServerOptions) -> Server:
        """Start one and wait until it answers; raises ServerFailed, LaunchError or OSError."""
        address = options.grpc
        if not address.port:
            address = replace(address, port=1 + secrets.randbelow(65_535))
        check_address_is_free(address)
        free_socket(options.http, "--http-socket")
        _clear(options)
        command = server_command(
            server_folder(options.installation),
            options.repository,
            address,
            models=[],
            replica_id=options.replica_id,
            frontends=Frontends(options.http, options.metrics, options.exit_timeout_s, driven=True),
        )
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            env=server_environment(options.installation, dict(os.environ)),
            preexec_fn=tied_to(os.getpid()),
        )
        server = cls(process, address, TritonHttp(options.http), options)
        try:
            await server._wait_ready()
        except BaseException:
            await asyncio.shield(server.end(grace_s=0))
            raise
        return server

    def runs(self, model: str) -> bool:
        """Whether a model has a process that lives."""
        return has_child(self._process.pid, f"/{model}/1/model.py")

    def check_running(self) -> None:
        """Raises ServerFailed if the process has ended."""
        if self.ended.done():
            raise ServerFailed(f"its server ended ({describe_exit(self.ended.result())})")

    async def end(self, *, grace_s: float) -> None:
        """End the process, which may first answer what it has in hand for so long (0: at once), and its models'."""
        if grace_s > 0 and not self.ended.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait([self.ended], timeout=grace_s + _KILL_AFTER_S)
        if not self.ended.done():
            self._signal(signal.SIGKILL)
        await asyncio.wait([self.ended])
        _clear(self._options)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + START_TIMEOUT_S
        while not await self.client.alive():
            await asyncio.wait([self.ended], timeout=_POLL_S)
            if self.ended.done():
                raise ServerFailed(f"its server did not start ({describe_exit(self.ended.result())})")
            if loop.time() > until:
                raise ServerFailed(f"its server does not answer within {START_TIMEOUT_S:.0f} s")


def _clear(options: ServerOptions) -> None:
    """End what is left of earlier servers, and remove their shared memory and sockets: their names are this agent's."""
    prefix = f"{options.replica_id}."
    end_orphans(prefix)
    # Those that were ended a moment ago may still be dying: they are buried when the next server is started.
    bury_orphans()
    sweep_shared_memory(prefix)
    options.http.unlink(missing_ok=True)
    if options.grpc.socket_file is not None:
        name = options.grpc.socket_file.name.removesuffix("0")
        for socket in options.grpc.socket_file.parent.glob(f"{name}*"):
            socket.unlink(missing_ok=True)
