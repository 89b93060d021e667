"""The HTTP side: OpenAI images, health, readiness, metrics and the playground page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ..metrics import REGISTRY
from ..requests import Answer, Refused
from ..service import Failed, Service
from . import openai, openapi
from .http_jobs import Jobs, make_job_routes
from .http_requests import EXCEPTION_HANDLERS, REQUEST_ID, request_id_of, tenant_of, wanted_images
from .page import PAGE
from .png import encode_png


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
    return Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)


def _verdict(word: str, problem: str | None) -> Response:
    return PlainTextResponse(f"{problem or word}\n", 200 if problem is None else 503)


def make_app(service: Service, jobs: Jobs) -> Starlette:
    """The application of a router."""

    async def generations(request: Request) -> Response:
        wanted = await wanted_images(service, request)
        headers = {REQUEST_ID: request_id_of(request)}
        if wanted.stream:
            # The first image is awaited, so that a refusal has a status of its own.
            events = _events(service, wanted)
            first = await _until_disconnect(request, lambda: anext(events))
            return StreamingResponse(_chained(first, events), media_type="text/event-stream", headers=headers)
        return JSONResponse(await _until_disconnect(request, lambda: _images(service, wanted)), headers=headers)

    async def models(request: Request) -> Response:
        tenant_of(service, request)
        data = [openai.model_item(name, runtime.plan) for name, runtime in service.plans.by_name.items()]
        return JSONResponse({"object": "list", "data": data})

    async def model(request: Request) -> Response:
        tenant_of(service, request)
        name = request.path_params["model"]
        return JSONResponse(openai.model_item(name, service.plans.find(name).plan))

    described = openapi.document(service.settings)

    async def describe(request: Request) -> Response:
        return JSONResponse(described)

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE)

    routes = [
        Route("/", page),
        Route("/v1/images/generations", generations, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{model}", model),
        Route("/openapi.json", describe),
        *make_job_routes(service, jobs),
        *make_health_app(service).routes,
    ]
    return Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)


async def _images(service: Service, wanted: openai.ImagesRequest) -> Any:
    answers = await service.generate_all(wanted.requests, protocol="http")
    pngs = [await encode_png(answer.image) for answer in answers]
    return openai.images_body(wanted, answers, pngs, created=int(time.time()))


async def _events(service: Service, wanted: openai.ImagesRequest) -> AsyncIterator[bytes]:
    """Server-sent events of one request; raises what `Service.generate` does."""
    created_at = int(time.time())
    previews: asyncio.Queue[Answer] = asyncio.Queue()
    making = asyncio.ensure_future(
        service.generate_all(
            wanted.requests, protocol="http-stream", preview=previews.put_nowait if wanted.previews else None
        )
    )
    shown = asyncio.ensure_future(previews.get())
    try:
        await asyncio.wait({making, shown}, return_when=asyncio.FIRST_COMPLETED)
        if shown.done():
            light = shown.result()
            yield openai.stream_event(wanted, light, await encode_png(light.image), final=False, created_at=created_at)
        (answer,) = await making
        yield openai.stream_event(wanted, answer, await encode_png(answer.image), final=True, created_at=created_at)
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
        yield openai.sent_event(openai.FAILED, content)
    except Failed as failed:
        yield openai.sent_event(openai.FAILED, openai.error_body(str(failed), kind="server_error"))


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
