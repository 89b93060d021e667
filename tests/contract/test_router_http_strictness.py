"""Requests that are not quite HTTP/1.1 are refused before the application sees them, over raw sockets."""

from __future__ import annotations

import re
import socket

import pytest

from cascade_router.serving.http_protocol import HEAD_LIMIT
from support.router import RouterProcess
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
BODY = b'{"prompt":"a large red circle"}'
END = b"connection: close\r\n\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    "one header of 66 000 bytes": (GET + b"x: " + b"y" * 66_000 + b"\r\n\r\n", 431),
    "many headers of 66 000 bytes together": (GET + b"x: yyyyyyyyyyyyyyyy\r\n" * 3143 + b"\r\n", 431),
    "a path of 66 000 bytes": (b"GET /" + b"y" * 66_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
    "a head just above the limit": (GET + b"x: " + b"y" * (HEAD_LIMIT - 30) + b"\r\n\r\n", 431),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 505),
    "HTTP/2 in words": (b"GET /healthz HTTP/2.0\r\nhost: localhost\r\n\r\n", 505),
    "HTTP/1.2": (b"GET /healthz HTTP/1.2\r\nhost: localhost\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: localhost\r\n\r\n", 400),
    "two hosts over HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nhost: localhost\r\nhost: evil\r\n\r\n", 400),
    "an empty host": (b"GET /healthz HTTP/1.1\r\nhost:\r\n" + END, 400),
    "a host and an address for another": (b"GET http://evil/healthz HTTP/1.1\r\nhost: localhost, evil\r\n" + END, 400),
    "two lengths": (POST + b"content-length: 31\r\ncontent-length: 30\r\n\r\n" + BODY, 400),
    "a length and chunks": (POST + b"content-length: 31\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a negative length": (POST + b"content-length: -1\r\n\r\n" + BODY, 400),
    "an unknown transfer coding": (POST + b"transfer-encoding: gzip\r\n\r\n" + BODY, 400),
    "a blank before the colon": (GET + b"x : y\r\n\r\n", 400),
    "a folded header": (GET + b"x: y\r\n z\r\n\r\n", 400),
    "a header without a name": (GET + b": y\r\n\r\n", 400),
    "a zero byte": (GET + b"x: \x00\r\n\r\n", 400),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "gRPC": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(shared_router: RouterProcess, case: str) -> None:
    said, status = REFUSED[case]
    for heard in (talk(shared_router, said), talk(shared_router, said, step=8192)):
        # Where it does not wait for the rest of what is said, the answer may be lost.
        assert statuses(heard) == [status] or (status == 431 and heard == b""), heard[:300]
        assert b'"message"' in heard


@pytest.mark.parametrize(
    "said",
    [
        GET + END,
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n",
        GET + b"x: " + b"y" * 60_000 + b"\r\n" + END,
        CHUNKED.replace(b"\r\n\r\n", b"\r\n" + END) + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\n" + END) + b"1f;x=y\r\n" + BODY + b"\r\n0\r\nhost: evil\r\n\r\n",
    ],
)
def test_what_is_right_is_served(shared_router: RouterProcess, said: bytes) -> None:
    assert statuses(talk(shared_router, said)) == [200]


def test_requests_that_come_together_are_counted_one_by_one(shared_router: RouterProcess) -> None:
    head = GET + b"x: " + b"y" * 9000 + b"\r\n"
    heard = talk(shared_router, 20 * (head + b"\r\n") + head + END)
    assert statuses(heard) == 21 * [200]


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + 6000 * b"x: yyyyyyyyy\r\n", b"0\r\nx: " + b"y" * 120_000, b"1;" + b"x" * 120_000]
)
def test_what_comes_beside_a_body_has_a_bound_too(shared_router: RouterProcess, endless: bytes) -> None:
    assert statuses(talk(shared_router, CHUNKED + endless)) in ([], [431])


def statuses(heard: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", heard)]


def talk(router: RouterProcess, said: bytes, *, step: int | None = None) -> bytes:
    """What comes back, until the router closes the connection, for bytes that are sent at once or in steps."""
    host, _, port = router.http_url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        heard = b""
        try:
            for at in range(0, len(said), step or len(said)):
                connection.sendall(said[at : at + (step or len(said))])
            while part := connection.recv(65536):
                heard += part
        except ConnectionError:
            pass  # it did not wait for the rest of what was said
        return heard
