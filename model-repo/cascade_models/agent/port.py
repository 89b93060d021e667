"""The agent's port: HTTP with JSON, for whoever may tell it what to host.

- ``PUT /hosts`` says the whole list, and is answered with what is hosted now. A list that cannot be hosted changes
  nothing, and is answered with 422 and the field.
- ``GET /hosts`` says what is hosted; with ``?changed_since=N`` as soon as that is not report N any more.
- ``GET /healthz`` says that the agent answers, to everybody.

Each connection is one request, with bounds on its size and time. On a Unix socket the permissions of its folder are the
lock; on the network it is a bearer key, which is read from a file.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cascade_models.agent.hosting import Hosting, Report
from cascade_models.agent.steps import Host, Phase
from cascade_models.agent.wanted import WantedHosts
from cascade_models.manifest import ManifestError

LARGEST_HEAD: Final = 16 * 1024
LARGEST_BODY: Final = 1024 * 1024
REQUEST_TIMEOUT_S: Final = 10.0
"""How long a client may take to send its request, and to take its answer."""
LONGEST_WAIT_S: Final = 30.0
"""How long a client that waits for a change waits at most."""
MOST_CONNECTIONS: Final = 64

_SHOWN: Final = {Phase.BROKEN: Phase.FAILED}
"""What is shown of phases that last no time."""


class Refused(Exception):
    """A request that is not carried out."""

    def __init__(self, status: HTTPStatus, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.field = field


@dataclass(frozen=True)
class Request:
    """One request of HTTP."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Port:
    """Answers requests about one `Hosting`; ``keep`` remembers a list that was taken."""

    def __init__(self, hosting: Hosting, *, keep: Callable[[object], None], key: str | None) -> None:
        """Without a ``key`` everybody who reaches the port may ask."""
        self._hosting = hosting
        self._keep = keep
        self._key = key
        self._connections = 0

    async def listen_unix(self, path: str) -> asyncio.Server:
        """Listen on a Unix socket; raises OSError."""
        return await asyncio.start_unix_server(self._connected, path, limit=LARGEST_HEAD)

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Server:
        """Listen on an address of the network; raises OSError."""
        return await asyncio.start_server(self._connected, host, port, limit=LARGEST_HEAD, ssl=tls)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            # The client went away, or is too slow.
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await _read_head(reader)
                if head.path != "/healthz":
                    # Nobody has a body read whom nobody knows.
                    self._check_key(head)
                request = await _with_body(head, reader)
            status, answer = HTTPStatus.OK, await self._answer(request)
        except Refused as refusal:
            status, answer = refusal.status, {"error": str(refusal), "field": refusal.field}
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            writer.write(_response(status, answer))
            await writer.drain()

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        said = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(said, f"Bearer {self._key}".encode()):
            raise Refused(HTTPStatus.UNAUTHORIZED, "the key is missing or wrong")

    async def _answer(self, request: Request) -> object:
        match request.method, request.path:
            case "GET", "/healthz":
                return {"status": "ok"}
            case "GET", "/hosts":
                return wire(await self._report(request.query))
            case "PUT", "/hosts":
                return wire(self._take(request.body))
            case _, "/healthz" | "/hosts":
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not known here")
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, "there are /hosts and /healthz")

    async def _report(self, query: Mapping[str, str]) -> Report:
        if "changed_since" not in query:
            return self._hosting.report()
        try:
            number = int(query["changed_since"])
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "should be a number", "changed_since") from None
        return await self._hosting.report_since(number, timeout_s=LONGEST_WAIT_S)

    def _take(self, body: bytes) -> Report:
        try:
            document = json.loads(body)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
        try:
            self._hosting.want(WantedHosts.read(document))
            self._keep(document)
        except ManifestError as error:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), error.field) from None
        except OSError as error:
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, f"{error.filename}: {error.strerror}") from None
        return self._hosting.report()


def wire(report: Report) -> dict[str, Any]:
    """A report as JSON."""
    return {
        "number": report.number,
        "endpoint": report.endpoint,
        "problem": report.problem,
        "failures": report.failures,
        "hosts": {model: _wire_host(host) for model, host in report.hosts.items()},
    }


def _wire_host(host: Host) -> dict[str, Any]:
    return {
        "state": _SHOWN.get(host.phase, host.phase).value,
        "since": host.since_s,
        "message": host.message,
        "failures": host.failures,
    }


async def _read_head(reader: asyncio.StreamReader) -> Request:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        raise Refused(status, f"the head has more than {LARGEST_HEAD} bytes") from None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Refused(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    target = urlsplit(words[1])
    query = {name: values[-1] for name, values in parse_qs(target.query).items()}
    return Request(words[0], target.path, query, headers, b"")


async def _with_body(head: Request, reader: asyncio.StreamReader) -> Request:
    if "transfer-encoding" in head.headers:
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "send the body with its Content-Length")
    text = head.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length should be a number")
    if int(text) > LARGEST_BODY:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {LARGEST_BODY} bytes")
    return Request(head.method, head.path, head.query, head.headers, await reader.readexactly(int(text)))


def _response(status: HTTPStatus, answer: object) -> bytes:
    body = json.dumps(answer).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
