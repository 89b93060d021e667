"""Images over HTTP: they are sent in pieces, and count as sent when the client's connection has taken them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..deliveries import Delivery, Unmade
from ..requests import MadeImage, RequestRefused, made_images
from ..service import ImageService, RouterDefect
from . import openai
from .parts import Part, length, pieces

_T = TypeVar("_T")


Write = Callable[[Sequence[MadeImage | RequestRefused]], tuple[list[Part], dict[str, str]]]
"""Makes the parts of a body from the answers of a call, and the headers that depend on them."""


class ImagesResponse(Response):
    """All images of a call in one body, which ``write`` makes of them."""

    def __init__(self, request: Request, delivery: Delivery, write: Write, *, headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        self._request = request
        self._delivery = delivery
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body. Raises RequestRefused if it is too late for that."""
        with contextlib.suppress(ClientDisconnect), self._delivery as delivery:
            parts, headers = delivery.pack(self._write)
            self.headers.update(headers)
            self.headers["content-length"] = str(length(parts))
            await until_disconnect(self._request, lambda: self._send(parts, send))

    async def _send(self, parts: list[Part], send: Send) -> None:
        """Send each piece after the connection has taken those before it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in pieces(parts):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def images_response(
    request: Request, wanted: openai.WantedImages, delivery: Delivery, *, headers: Mapping[str, str]
) -> ImagesResponse:
    """All images of a call in the form of OpenAI's API."""

    def write(answers: Sequence[MadeImage | RequestRefused]) -> tuple[list[Part], dict[str, str]]:
        return openai.images_body(wanted, answers, created_at=int(time.time())), {"content-type": "application/json"}

    return ImagesResponse(request, delivery, write, headers=headers)


async def events_response(
    service: ImageService, request: Request, wanted: openai.WantedImages, *, headers: Mapping[str, str]
) -> Response:
    """Server-sent events of one call.

    Raises what `ImageService.stream` raises; after the first event, such an error becomes the last event instead.
    """
    events = _events(service, wanted)
    # The first piece is awaited, so that a refusal still gets its own HTTP status.
    first = await until_disconnect(request, lambda: anext(events))
    return StreamingResponse(_chained(first, events), media_type="text/event-stream", headers=headers)


async def _events(service: ImageService, wanted: openai.WantedImages) -> AsyncIterator[bytes]:
    """Partial images while others are being made, each completed one as soon as it is there, and failures at the end.

    OpenAI's clients end a stream at the first failure.
    """
    created_at = int(time.time())
    previews: asyncio.Queue[MadeImage] = asyncio.Queue()
    preview = previews.put_nowait if wanted.previews else None
    outcomes = service.stream(wanted.requests, protocol="http-stream", preview=preview)
    made: asyncio.Future[Any] = _soon(anext(outcomes, None))
    shown: asyncio.Future[Any] = _soon(previews.get())
    try:
        while True:
            await asyncio.wait({made, shown}, return_when=asyncio.FIRST_COMPLETED)
            if shown.done():
                light, shown = shown.result(), _soon(previews.get())
                async for piece in pieces(openai.stream_event(wanted, light, final=False, created_at=created_at)):
                    yield piece
                continue
            outcome = made.result()
            if outcome is None:
                return
            if isinstance(outcome, Unmade):
                _, content, _ = openai.refusal_body(outcome.refused)
                yield openai.failed_event({**content, "image_index": outcome.admitted.request.index})
            else:
                with outcome as delivery:
                    parts = delivery.pack(
                        lambda answers: openai.stream_event(
                            wanted, made_images(answers)[0], final=True, created_at=created_at
                        )
                    )
                    async for piece in pieces(parts):
                        yield piece
            made = _soon(anext(outcomes, None))
    finally:
        shown.cancel()
        made.cancel()
        await asyncio.wait({made})
        if not made.cancelled() and made.exception() is None and isinstance(made.result(), Delivery):
            made.result().failed()  # has an effect only if the client left before the image was sent
        await outcomes.aclose()


def _soon(awaitable: Awaitable[_T]) -> asyncio.Future[_T]:
    return asyncio.ensure_future(awaitable)


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
