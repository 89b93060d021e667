"""Listens on the gRPC and HTTP addresses, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
from collections.abc import Iterator
from typing import Any, Final, cast

import grpc
import grpc.aio
import structlog
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from starlette.applications import Starlette
from tritonclient.grpc import service_pb2_grpc

from cascade_api import addresses
from cascade_api.files import file_limit

from ..service import ImageService
from .grpc_guard import GuardedServer
from .grpc_reflection import add_reflection
from .grpc_service import InferenceService
from .http_protocol import HEAD_S, BoundedHttp, Connections
from .tls import Certificates

log = structlog.get_logger(__name__)

INFERENCE: Final = "inference.GRPCInferenceService"
_RECEIVE_LIMIT: Final = 4 * 1024 * 1024
_SEND_LIMIT: Final = 256 * 1024 * 1024
_HEALTH_S: Final = 0.25
_BACKLOG: Final = 1024
_CLOSING_S: Final = 3.0
_CONNECTIONS: Final = 8192
"""The most connections of an HTTP server, if the process may have enough files open."""
HTTP_SHARE: Final = 1 / 2
HEALTH_SHARE: Final = 1 / 16
GRPC_SHARE: Final = 1 / 4
"""Shares of the files that this process may have open. The rest is for Redis, Triton and connections being closed."""
_KEEPALIVE_S: Final = (30, 10, 3)
"""TCP keep-alive: seconds of silence before the first probe, seconds between probes, and probes before giving up."""


class AddressTaken(Exception):
    """An address cannot be listened on; the message says which setting to change."""


def split_address(address: str, *, setting: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; raises AddressTaken if ``address`` has another form."""
    try:
        return addresses.split_address(address)
    except ValueError as error:
        raise AddressTaken(f"{setting}: {error}") from None


class GrpcServer:
    """The gRPC server, with its health and reflection services."""

    def __init__(self, service: ImageService) -> None:
        self._service = service
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _RECEIVE_LIMIT),
                ("grpc.max_send_message_length", _SEND_LIMIT),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", _KEEPALIVE_S[0] * 1000),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_S[1] * 1000),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.server_handshake_timeout_ms", int(HEAD_S * 1000)),
                ("grpc.http2.max_ping_strikes", 0),  # clients may send pings as often as they like
                ("grpc.max_allowed_incoming_connections", _share(GRPC_SHARE)),
            )
        )
        inference = InferenceService(service)
        guarded = GuardedServer(self._server, check=inference.known)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, guarded)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guarded)
        add_reflection((INFERENCE, "grpc.health.v1.Health"), guarded)

    async def start(self, address: str, certificates: Certificates | None) -> str:
        """Listen; returns the address, with the chosen port if 0 was given. Raises AddressTaken."""
        host, port = split_address(address, setting="CASCADE_ROUTER_GRPC_ADDRESS")
        # Bind once beforehand, because gRPC's own error does not say why it failed.
        _bind(host, port, setting="CASCADE_ROUTER_GRPC_ADDRESS").close()
        try:
            if certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, certificates.grpc_credentials())
        except RuntimeError as error:
            raise AddressTaken(f"CASCADE_ROUTER_GRPC_ADDRESS: cannot listen on {address}: {error}") from None
        await self._server.start()
        return f"{host}:{port}"

    async def watch_health(self) -> None:
        """Keep the answer of the health service equal to the router's readiness, until cancelled."""
        while True:
            ready = self._service.why_not_ready() is None
            status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", INFERENCE):
                await self._health.set(name, status)
            await asyncio.sleep(_HEALTH_S)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and wait until those under way have ended; after ``grace_s`` seconds they are aborted."""
        await self._server.stop(grace_s)


class HttpServer:
    """An HTTP server.

    Args:
        setting: name of the setting that gives its address, for messages.
        share: the share of the files that this process may have open which connections may use.
    """

    def __init__(self, app: Starlette, *, setting: str, share: float = HTTP_SHARE) -> None:
        self._setting = setting
        limit = min(_CONNECTIONS, _share(share))
        # The event loop accepts a whole backlog before it closes the idle connections that make room for it.
        self._backlog = max(1, min(_BACKLOG, limit // 4))
        self._config = uvicorn.Config(
            app,
            http=cast(Any, functools.partial(BoundedHttp, among=Connections(limit))),
            loop="none",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            backlog=self._backlog,
        )
        self._server = _QuietServer(self._config)
        self._task: asyncio.Task[Any] | None = None

    async def start(self, address: str, certificates: Certificates | None) -> str:
        """Listen; returns the address, with the chosen port if 0 was given. Raises AddressTaken."""
        host, port = split_address(address, setting=self._setting)
        listener = _bind(host, port, setting=self._setting)
        listener.listen(self._backlog)
        self._config.load()
        if certificates is not None:
            self._config.ssl = certificates.context
        self._task = asyncio.ensure_future(self._server.serve(sockets=[listener]))
        return f"{host}:{listener.getsockname()[1]}"

    def leave(self) -> None:
        """Take no more connections, close idle ones, and close each busy one after its answer."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Leave, and close the connections that are not done after a moment."""
        self.leave()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_CLOSING_S)
            self._server.force_exit = True
            await self._task


def _share(share: float) -> int:
    return max(1, int(file_limit() * share))


class _QuietServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the router's main program handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int, *, setting: str) -> socket.socket:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _keep_alive(listener)
            listener.bind(target)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        why = (
            "the port is in use; stop what listens there or choose another"
            if error.errno == errno.EADDRINUSE
            else error
        )
        raise AddressTaken(f"{setting}: cannot listen on {host}:{port}: {why}") from None
    return listener


def _keep_alive(listener: socket.socket) -> None:
    """Let the kernel detect accepted connections whose other end is gone."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), _KEEPALIVE_S, strict=True):
        if hasattr(socket, name):  # Linux
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
