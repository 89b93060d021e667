"""The agent's port bounds whoever speaks to it, and can speak TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from cascade_models.agent import port as ports
from cascade_models.agent.hosting import Hosting
from cascade_models.agent.port import Port
from support.agent import host_entries
from support.triton import LIGHT

KEY = "k" * 40


def port(kept: list[object], *, key: str | None = None) -> Port:
    """A port over a worker whose Triton never comes."""

    async def never() -> object:
        raise AssertionError

    hosting = Hosting(start_server=never, render=lambda wanted, there: None, say=print)  # type: ignore[arg-type]
    return Port(hosting, keep=kept.append, key=key)


async def test_over_tls_whoever_has_the_key_is_heard(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    kept: list[object] = []
    server = await port(kept, key=KEY).listen("127.0.0.1", 0, context)
    address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    body = {"variants": host_entries("shapes-light")}
    async with server, httpx.AsyncClient(verify=trusted, base_url=address, trust_env=False) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.put("/hosts", json=body)).status_code == 401
        assert kept == []
        client.headers["Authorization"] = f"Bearer {KEY}"
        answer = await client.put("/hosts", json=body)
        assert (answer.status_code, answer.json()["hosts"]) == (200, {})
        assert kept == [body]
        refused = await client.put("/hosts", json={"variants": [{**body["variants"][0], "engine": "steam"}]})
        assert refused.status_code == 422
        assert LIGHT not in refused.text
        assert kept == [body], "what cannot be hosted is not kept"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"PUT /hosts HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"PUT /hosts HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"PUT /hosts HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET /hosts HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_what_is_no_request_of_bounded_size_is_refused(tmp_path: Path, sent: bytes, status: bytes) -> None:
    server = await port([]).listen_unix(str(tmp_path / "port"))
    async with server:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "port"))
        writer.write(sent)
        assert (await reader.read(200)).split()[1] == status
        writer.close()


async def test_a_client_that_does_not_go_on_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "REQUEST_TIMEOUT_S", 0.05)
    server = await port([]).listen_unix(str(tmp_path / "port"))
    async with server:
        for started in (b"", b"GET /ho", b"PUT /hosts HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "port"))
            writer.write(started)
            assert await reader.read() == b""
            writer.close()


async def test_connections_beyond_the_bound_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "MOST_CONNECTIONS", 1)
    server = await port([]).listen_unix(str(tmp_path / "port"))
    async with server:
        _, first = await asyncio.open_unix_connection(str(tmp_path / "port"))
        await asyncio.sleep(0.05)
        reader, second = await asyncio.open_unix_connection(str(tmp_path / "port"))
        assert await reader.read() == b""
        first.close()
        second.close()
