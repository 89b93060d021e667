"""HTTP/1.1 as uvicorn speaks it, for clients that stop in the middle: a request's head has to come soon, and be short,
and its answer has to be read.

uvicorn itself waits for ever for the first request of a connection, for the rest of a head, of any length, and for a
client to read. And it
ends by closing idle connections at once, which loses a request that is on its way over one of them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S: Final = 10.0
"""How long a connection may be open, or a request begun, without its head having come."""
HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a head."""
READ_S: Final = 60.0
"""How long a client may take to read what it was sent: an image, which the router has to hold meanwhile."""
ON_ITS_WAY_S: Final = 1.0
"""How long a server that ends hears an idle connection, over which one more request may be on its way."""


class BoundedHttp(HttpToolsProtocol):
    """One connection; `head_s` and `read_s` are the times allowed for a head and for reading, in seconds."""

    head_s = HEAD_S
    read_s = READ_S

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_due: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._read_due: asyncio.TimerHandle | None = None
        self._leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._was_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_idle = self.timeout_keep_alive_task is not None
        super().data_received(data)
        if was_idle and self._head_due is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()  # what came ended the wait for another request, and was none
        if self._head_due is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT:
                self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        if self._head_due is None:
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_due is None:
            # There is nobody to wait for: what is left is dropped.
            self._read_due = self.loop.call_later(self.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._was_read()
        super().resume_writing()

    def shutdown(self) -> None:
        if not self._leaving:
            self._leaving = True
            self.loop.call_later(ON_ITS_WAY_S, self.shutdown)
            if self.cycle is None or self.cycle.response_complete:
                return
        super().shutdown()

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
            self._expect_head()  # an answer is under way; what was begun behind it can wait as long
            return
        self._refuse(b"408 Request Timeout" if self._head_bytes else b"")

    def _refuse(self, status: bytes) -> None:
        self._head_came()
        if self.transport.is_closing():
            return
        if status and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
