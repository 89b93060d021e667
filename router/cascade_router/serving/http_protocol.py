"""uvicorn's HTTP/1.1 with limits. The head of a request (request line and headers) must arrive soon, be short and name
one host, and the client must read the answer.

uvicorn itself waits for ever for the first request of a connection, for the rest of a head of any length, and for a
client to read. It also accepts HTTP/0.9 and any number of Host headers. And when it shuts down, it closes idle
connections at once, so that a request that was just sent over one of them is lost.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NamedTuple, NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from . import openai
from .openai_bodies import ErrorType

HEAD_S: Final = 10.0
"""How long a connection may wait for the head of its first request, or for the rest of a head."""
HEAD_LIMIT: Final = 64 * 1024
"""The most bytes of a head, and of what a body consists of beside its own bytes (chunk framing, trailers)."""
_PART: Final = 16 * 1024
"""How many bytes are parsed at a time, before the bytes of an unfinished head are counted."""
_FRAME: Final = 8
"""How many bytes of framing are accepted for each byte of a body; chunks of one byte need six."""
READ_S: Final = 60.0
"""How long a client may take to read what it was sent: an image, which the router must hold until then."""
LAST_REQUEST_S: Final = 1.0
"""How long a server that shuts down still listens to idle connections, because a request may just have been sent."""


class _HttpError(NamedTuple):
    """Status line and message for a request that is refused before the application sees it."""

    status: bytes
    message: str


_TOO_LONG: Final = _HttpError(
    b"431 Request Header Fields Too Large", f"the head of the request is longer than {HEAD_LIMIT} bytes"
)
_TOO_MANY: Final = _HttpError(b"503 Service Unavailable", "all connections that the router may have are busy")
_TOO_LATE: Final = _HttpError(b"408 Request Timeout", "the head of the request did not come in time")


class Connections:
    """The connections of one server, at most ``limit``. At the limit, the longest idle one is closed for a new one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[BoundedHttp] = set()
        self._idle: dict[BoundedHttp, None] = {}

    def admit(self, connection: BoundedHttp) -> bool:
        """Add a new connection, which is idle at first; returns False if all are busy."""
        if len(self._open) >= self._limit:
            longest_idle = next(iter(self._idle), None)
            if longest_idle is None:
                return False
            self.forget(longest_idle)
            longest_idle.transport.abort()  # closing TLS properly would wait for the client
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def busy(self, connection: BoundedHttp) -> None:
        """Note that a request has begun."""
        self._idle.pop(connection, None)

    def idle(self, connection: BoundedHttp) -> None:
        """Note that the connection has no request and no answer under way."""
        if connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: BoundedHttp) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)


class BoundedHttp(HttpToolsProtocol):
    """One connection of a server, whose connections are ``among``.

    `head_s` and `read_s` are the seconds that a client has to send a head, and to read an answer.
    """

    head_s = HEAD_S
    read_s = READ_S

    def __init__(self, *arguments: Any, among: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._among = among
        self._head_due: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        """Bytes received of a head that is not complete yet."""
        self._header_bytes = 0
        """Bytes of the head that are parsed so far."""
        self._frame_bytes = 0
        """Bytes received since the head, without those of the body itself."""
        self._error: _HttpError | None = None
        self._read_due: asyncio.TimerHandle | None = None
        self._leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._among.admit(self):
            self._expect_head()
        elif transport.get_extra_info("sslcontext") is None:
            self._refuse(_TOO_MANY)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._among.forget(self)
        self._head_came()
        self._was_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), _PART):
            if self.transport.is_closing():
                return
            self._take(data[at : at + _PART])

    def _take(self, part: bytes) -> None:
        was_idle = self.timeout_keep_alive_task is not None
        super().data_received(part)
        if was_idle and self._head_due is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()  # uvicorn stopped its keep-alive timer, but no request has begun
        if self._head_due is None:
            self._frame_bytes += len(part)
        else:
            self._head_bytes += len(part)
        if max(self._head_bytes, self._frame_bytes) > HEAD_LIMIT + _PART:
            self._refuse(_TOO_LONG)

    def on_message_begin(self) -> None:
        if self._head_due is None:
            self._expect_head()
        self._header_bytes = 0
        self._among.busy(self)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        if self._head_due is not None:  # otherwise it is a trailer after the body, which is ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_head()
        self._head_came()
        self._frame_bytes = 0
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._frame_bytes -= (1 + _FRAME) * len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self._head_due is None:
            self._among.idle(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser could not read, or that a callback did not accept."""
        self._refuse(self._error or _HttpError(b"400 Bad Request", msg))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_due is None:
            # A client that does not read in time is considered gone, and the rest of its answer is dropped.
            self._read_due = self.loop.call_later(self.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._was_read()
        super().resume_writing()

    def shutdown(self) -> None:
        if not self._leaving:
            self._leaving = True
            self.loop.call_later(LAST_REQUEST_S, self.shutdown)
            if self.cycle is None or self.cycle.response_complete:
                return
        super().shutdown()

    def _count(self, *parts: bytes) -> None:
        """Add to the bytes of the head, or of the trailer after a body."""
        self._header_bytes += sum(map(len, parts)) + len(b": \r\n")
        if self._header_bytes > HEAD_LIMIT:
            self._fail(_TOO_LONG)

    def _check_head(self) -> None:
        http_version = self.parser.get_http_version()
        if http_version not in ("1.0", "1.1"):
            self._fail(
                _HttpError(b"505 HTTP Version Not Supported", f"HTTP/{http_version} is not supported; use HTTP/1.1")
            )
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and http_version == "1.1"):
            self._fail(_HttpError(b"400 Bad Request", f"Host: is given {hosts} times; give it once"))

    def _fail(self, error: _HttpError) -> NoReturn:
        """Stop the parser with an error; uvicorn then calls `send_400_response`."""
        self._error = error
        raise ValueError(error.message)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_due = self.loop.call_later(self.head_s, self._overdue)

    def _head_came(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _was_read(self) -> None:
        if self._read_due is not None:
            self._read_due.cancel()
            self._read_due = None

    def _overdue(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_head()  # while an answer is under way, the next request may take longer
            return
        self._refuse(_TOO_LATE if self._head_bytes else None)

    def _refuse(self, error: _HttpError | None) -> None:
        """Close the connection; send the error first if the client cannot take it for the answer to another request."""
        self._head_came()
        if self.transport.is_closing():
            return
        if error is not None and self._is_next():
            kind: ErrorType = "server_error" if error is _TOO_MANY else "invalid_request_error"
            body = json.dumps(openai.error_body(error.message, kind=kind)).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(b"HTTP/1.1 " + error.status + b"\r\n" + head + body)
        self.transport.close()

    def _is_next(self) -> bool:
        """Whether the client waits for no answer but that to the request that it is sending now."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        return cycle.more_body and not cycle.response_started and not self.pipeline
