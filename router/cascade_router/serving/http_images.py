"""Images over HTTP: they are sent in pieces, and count as sent when the client's connection has taken them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..deliveries import Delivery
from ..requests import MadeImage, RequestRefused
from ..service import ImageService, RouterDefect
from . import openai
from .parts import Part, length, pieces


class ImagesResponse(Response):
    """All images of a call, as one JSON document."""

    media_type = "application/json"

    def __init__(
        self, request: Request, wanted: openai.WantedImages, delivery: Delivery, *, headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers=headers)
        self._request = request
        self._wanted = wanted
        self._delivery = delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the document. Raises RequestRefused if it is too late for that."""
        with contextlib.suppress(ClientDisconnect), self._delivery as delivery:
            created_at = int(time.time())
            parts = delivery.pack(lambda answers: openai.images_body(self._wanted, answers, created_at=created_at))
            self.headers["content-length"] = str(length(parts))
            await until_disconnect(self._request, lambda: self._send(parts, send))

    async def _send(self, parts: list[Part], send: Send) -> None:
        """Send each piece after the connection has taken those before it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in pieces(parts):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def events_response(
    service: ImageService, request: Request, wanted: openai.WantedImages, *, headers: Mapping[str, str]
) -> Response:
    """Server-sent events of one request.

    Raises what `ImageService.generate` raises; after a preview, such an error becomes the last event instead.
    """
    events = _events(service, wanted)
    # The first piece is awaited, so that a refusal still gets its own HTTP status.
    first = await until_disconnect(request, lambda: anext(events))
    return StreamingResponse(_chained(first, events), media_type="text/event-stream", headers=headers)


async def _events(service: ImageService, wanted: openai.WantedImages) -> AsyncIterator[bytes]:
    created_at = int(time.time())
    previews: asyncio.Queue[MadeImage] = asyncio.Queue()
    making = asyncio.ensure_future(
        service.generate(
            wanted.requests, protocol="http-stream", preview=previews.put_nowait if wanted.previews else None
        )
    )
    shown = asyncio.ensure_future(previews.get())
    try:
        await asyncio.wait({making, shown}, return_when=asyncio.FIRST_COMPLETED)
        if shown.done():
            async for piece in pieces(openai.stream_event(wanted, shown.result(), final=False, created_at=created_at)):
                yield piece
        with await making as delivery:
            parts = delivery.pack(
                lambda answers: openai.stream_event(wanted, answers[0], final=True, created_at=created_at)
            )
            async for piece in pieces(parts):
                yield piece
    finally:
        shown.cancel()
        if not making.cancel() and not making.cancelled() and making.exception() is None:
            making.result().failed()  # has an effect only if the client left before the image was sent


async def _chained(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """All events, beginning with the first piece; a failure after it becomes the last event."""
    yield first
    try:
        async for piece in events:
            yield piece
    except RequestRefused as refused:
        _, content, _ = openai.refusal_body(refused)
        yield openai.failed_event(content)
    except RouterDefect as failed:
        yield openai.failed_event(openai.error_body(str(failed), kind="server_error"))


async def until_disconnect(request: Request, work: Callable[[], Awaitable[Any]]) -> Any:
    """The result of ``work``, which is cancelled when the client goes away."""
    task = asyncio.ensure_future(work())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
