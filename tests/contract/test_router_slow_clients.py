"""Clients that stop in the middle of what they say are let go, and nobody waits for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from cascade_api.settings import RouterSettings
from cascade_router.main import Router
from cascade_router.serving import http_requests
from cascade_router.serving.http_protocol import HEAD_LIMIT, BoundedHttp
from support.redis import RedisServer

pytestmark = pytest.mark.contract

BODY = b"POST /v1/images/generations HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n{"


@pytest.fixture
async def router(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Router]:
    """A router in this process that is less patient than usual."""
    monkeypatch.setattr(BoundedHttp, "head_s", 0.5)
    monkeypatch.setattr(http_requests, "BODY_S", 0.5)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    settings = RouterSettings(grpc_address="127.0.0.1:0", http_address="127.0.0.1:0")
    async with Router(settings).running() as running:
        yield running


async def talk(router: Router, *parts: bytes, wait_s: float = 0.0) -> bytes:
    """What comes back for some bytes, until the router closes the connection."""
    host, _, port = router.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(wait_s)
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def test_a_connection_that_says_nothing_is_closed(router: Router) -> None:
    assert await talk(router) == b""
    assert (await talk(router, b"\r\n")).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_does_not_end_is_answered_with_408(router: Router) -> None:
    drip = [b"GET /healthz HTTP/1.1\r\n", *(b"x-%d: y\r\n" % n for n in range(3))]
    assert (await talk(router, *drip, wait_s=0.05)).startswith(b"HTTP/1.1 408 ")


async def test_also_on_a_connection_that_was_used_before(router: Router) -> None:
    said = await talk(router, b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n", b"GET /healthz HT", wait_s=0.1)
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


async def test_a_head_without_bounds_is_cut_off(router: Router) -> None:
    said = await talk(router, b"GET /healthz HTTP/1.1\r\nx: ", *[b"y" * HEAD_LIMIT] * 2, wait_s=0.05)
    assert said == b"reset" or said.startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_does_not_come_is_answered_with_408(router: Router) -> None:
    said = await talk(router, BODY)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not come within" in said


async def test_half_said_requests_keep_nobody_else_waiting_and_the_router_ends(router: Router) -> None:
    host, _, port = router.http_address.rpartition(":")
    held = [socket.create_connection((host, int(port))) for _ in range(200)]
    for half in held:
        half.sendall(BODY[:20])
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{router.http_address}/healthz", timeout=30)).text == "ok\n"
    for half in held:
        half.setblocking(False)
    for half in held:
        said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(half, 100), 30)
        assert said.startswith(b"HTTP/1.1 408 ")
        half.close()


async def test_a_silent_grpc_connection_is_closed(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = router.grpc_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while await asyncio.wait_for(reader.read(1000), 60):
            pass  # the server's own preface
    finally:
        writer.close()
