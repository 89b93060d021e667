"""The HTTP side: OpenAI images, health, readiness, metrics and the playground page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cascade_api.reasons import Refusal

from ..metrics import REGISTRY
from ..requests import Answer, Refused, new_id
from ..service import Failed, Service
from . import openai
from .page import PAGE
from .png import encode_png
from .statuses import HTTP

log = structlog.get_logger(__name__)

BODY_LIMIT: Final = 1024 * 1024
REQUEST_ID: Final = "x-request-id"


def make_health_app(service: Service) -> Starlette:
    """What probes and scrapes need."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        return _verdict("ready", service.why_not_ready())

    async def startedz(request: Request) -> Response:
        return _verdict("started", service.why_not_started())

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/healthz", healthz),
        Route("/startedz", startedz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


def _verdict(word: str, problem: str | None) -> Response:
    return PlainTextResponse(f"{problem or word}\n", 200 if problem is None else 503)


def make_app(service: Service) -> Starlette:
    """The application of a router."""

    async def generations(request: Request) -> Response:
        chosen = request.headers.get(REQUEST_ID, "")
        request_id = chosen or new_id()
        headers = {REQUEST_ID: request_id}
        try:
            tenant = _tenant(service, request)
            wanted = _wanted(
                service, await _read(request), request_id=request_id, id_chosen=bool(chosen), tenant=tenant
            )
            if wanted.stream:
                # The first image is awaited, so that a refusal has a status of its own.
                events = _events(service, wanted)
                first = await _until_disconnect(request, lambda: anext(events))
                return StreamingResponse(_chained(first, events), media_type="text/event-stream", headers=headers)
            items = await _until_disconnect(request, lambda: _items(service, wanted))
        except Refused as refused:
            status, content, more = openai.refusal_body(refused)
            return JSONResponse(content, status, headers={**more, **headers})
        except Failed as failed:
            return _failed(failed)
        except ClientDisconnect:
            return Response(status_code=HTTP[Refusal.CANCELLED])  # nobody reads it
        except HTTPException:
            raise
        except Exception:
            log.exception("request failed", request=request_id)
            return _failed(Failed(request_id))
        return JSONResponse({"created": int(time.time()), "data": items}, headers=headers)

    async def models(request: Request) -> Response:
        try:
            _tenant(service, request)
        except Refused as refused:
            status, content, headers = openai.refusal_body(refused)
            return JSONResponse(content, status, headers=headers)
        names = [runtime.ref.name for runtime in service.plans.runtimes]
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE)

    routes = [
        Route("/", page),
        Route("/v1/images/generations", generations, methods=["POST"]),
        Route("/v1/models", models),
        *make_health_app(service).routes,
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


def _tenant(service: Service, request: Request) -> str:
    """Who calls. Raises Refused, which is then counted already."""
    try:
        return service.tenants.identify(authorization=request.headers.get("authorization"))
    except Refused as refused:
        service.reject(refused)
        raise


def _wanted(service: Service, body: bytes, *, request_id: str, id_chosen: bool, tenant: str) -> openai.ImagesRequest:
    """A valid request for images of a cascade that there is. Raises Refused, which is then counted already."""
    try:
        names = [runtime.ref.name for runtime in service.plans.runtimes]
        wanted = openai.read_body(
            body,
            request_id=request_id,
            id_chosen=id_chosen,
            default_model=names[0] if len(names) == 1 else None,
            tenant=tenant,
            settings=service.settings,
        )
        image = service.plans.find(wanted.requests[0].model).plan.image
        openai.check_size(wanted.size, width=image.width, height=image.height)
    except Refused as refused:
        service.reject(refused)
        raise
    return wanted


async def _items(service: Service, wanted: openai.ImagesRequest) -> list[dict[str, Any]]:
    answers = await service.generate_all(wanted.requests, protocol="http")
    return [openai.image_item(answer, await encode_png(answer.image)) for answer in answers]


async def _events(service: Service, wanted: openai.ImagesRequest) -> AsyncIterator[bytes]:
    """Server-sent events of one request; raises what `Service.generate` does."""
    created_at = int(time.time())
    previews: asyncio.Queue[Answer] = asyncio.Queue()
    making = asyncio.ensure_future(
        service.generate(
            wanted.requests[0], protocol="http-stream", preview=previews.put_nowait if wanted.previews else None
        )
    )
    shown = asyncio.ensure_future(previews.get())
    try:
        await asyncio.wait({making, shown}, return_when=asyncio.FIRST_COMPLETED)
        if shown.done():
            light = shown.result()
            yield openai.stream_event(light, await encode_png(light.image), final=False, created_at=created_at)
        answer = await making
        yield openai.stream_event(answer, await encode_png(answer.image), final=True, created_at=created_at)
    finally:
        making.cancel()
        shown.cancel()


async def _chained(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events from the first on; a failure after it becomes the last event."""
    yield first
    try:
        async for event in events:
            yield event
    except Refused as refused:
        _, content, _ = openai.refusal_body(refused)
        yield openai.sent_event("error", content)
    except Failed as failed:
        yield openai.sent_event("error", openai.error_body(str(failed), kind="server_error"))


async def _until_disconnect(request: Request, work: Callable[[], Awaitable[Any]]) -> Any:
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


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise HTTPException(413, f"the body is longer than {BODY_LIMIT} bytes")
    return bytes(body)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "error"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    message = f"{request.method} {request.url.path}: {detail}"
    return JSONResponse(openai.error_body(message, kind="invalid_request_error"), status, headers=headers)


def _failed(failed: Failed) -> Response:
    return JSONResponse(openai.error_body(str(failed), kind="server_error"), 500)
