"""Clients that stop in the middle of a request are dropped, and no other client waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from cascade_api.settings import RouterSettings
from cascade_router.main import Router
from cascade_router.serving import http_bodies
from cascade_router.serving.http_protocol import HEAD_LIMIT, BoundedHttp
from support.redis import RedisServer
from support.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.contract

BODY = (
    b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: 100\r\n\r\n{"
)


@pytest.fixture
async def router(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Router]:
    """A router in this process that is less patient than usual."""
    monkeypatch.setattr(BoundedHttp, "head_s", 0.5)
    monkeypatch.setattr(http_bodies, "BODY_S", 0.5)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    settings = RouterSettings(grpc_address="127.0.0.1:0", http_address="127.0.0.1:0")
    async with Router(settings).running() as running:
        yield running


async def talk(router: Router, said: bytes) -> bytes:
    """What comes back for some bytes, until the router closes the connection."""
    host, _, port = router.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(said)
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def hears(router: Router, said: bytes, *wanted: bytes) -> None:
    """Wait for an answer with all the wanted parts: a client that the machine holds up comes too late for some."""

    async def answered() -> bool:
        heard = await talk(router, said)
        return heard.startswith(wanted[0]) and all(part in heard for part in wanted)

    await eventually(answered, what=f"{wanted}")


async def test_a_connection_that_says_nothing_is_closed(router: Router) -> None:
    assert await talk(router, b"") == b""
    await hears(router, b"\r\n", b"HTTP/1.1 408 ")


async def test_a_head_that_does_not_end_is_answered_with_408(router: Router) -> None:
    await hears(router, b"GET /healthz HTTP/1.1\r\nx-1: y\r\n", b"HTTP/1.1 408 ")


async def test_a_head_that_comes_in_drops_takes_no_longer(router: Router) -> None:
    host, _, port = router.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\n")
    reading = asyncio.ensure_future(reader.read())

    async def closed() -> bool:
        with contextlib.suppress(ConnectionError):
            writer.write(b"x: y\r\n")
            await writer.drain()
        return reading.done()

    await eventually(closed, what="the connection to be closed")
    await asyncio.gather(reading, return_exceptions=True)
    writer.close()


async def test_also_on_a_connection_that_was_used_before(router: Router) -> None:
    host, _, port = router.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
    writer.write(b"GET /healthz HT")
    assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_head_without_bounds_is_cut_off(router: Router) -> None:
    said = await talk(router, b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 2 * HEAD_LIMIT)
    assert said == b"reset" or said.startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_does_not_come_is_answered_with_408(router: Router) -> None:
    await hears(router, BODY, b"HTTP/1.1 408 ", b"the body did not come within")


async def test_half_said_requests_keep_nobody_else_waiting_and_the_router_ends(router: Router) -> None:
    host, _, port = router.http_address.rpartition(":")
    held = [socket.create_connection((host, int(port))) for _ in range(200)]
    for half in held:
        half.sendall(BODY[:20])
    await hears(router, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200 ")
    for half in held:
        half.setblocking(False)
    for half in held:
        said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(half, 100), PATIENCE_S)
        assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
        half.close()


async def test_a_silent_grpc_connection_is_closed(router: Router) -> None:
    host, _, port = router.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while await asyncio.wait_for(reader.read(1000), PATIENCE_S):
            pass  # the server's own preface
    finally:
        writer.close()
