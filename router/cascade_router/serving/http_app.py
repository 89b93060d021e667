"""The HTTP side: OpenAI images, KServe v2, health, readiness and metrics, and the console's routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ..metrics import REGISTRY
from ..service import ImageService
from . import openai, openapi
from .http_images import events_response, images_response, until_disconnect
from .http_jobs import Jobs, make_job_routes
from .http_kserve import make_kserve_routes
from .http_origins import guards
from .http_requests import EXCEPTION_HANDLERS, answer_headers, tenant_of, wanted_images
from .openai_bodies import Models


def make_health_app(service: ImageService) -> Starlette:
    """The application for probes and metrics, which accepts any host name: probes address pods in several ways."""

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
    return _application(routes)


def _application(routes: Sequence[BaseRoute], middleware: Sequence[Middleware] = ()) -> Starlette:
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False  # a redirect would lead to any host that the request names
    return app


def _verdict(word: str, problem: str | None) -> Response:
    return PlainTextResponse(f"{problem or word}\n", 200 if problem is None else 503)


def make_app(service: ImageService, jobs: Jobs, console: Sequence[BaseRoute]) -> Starlette:
    """The application of a router, with the routes of its console."""

    async def generations(request: Request) -> Response:
        return await answered(request, await wanted_images(service, request))

    async def answered(request: Request, wanted: openai.WantedImages) -> Response:
        headers = answer_headers(request, wanted)
        if wanted.stream:
            return await events_response(service, request, wanted, headers=headers)
        delivery = await until_disconnect(
            request, lambda: service.generate(wanted.requests, protocol="http", partial=True)
        )
        # The files that were given are not needed any more, however long the client reads.
        return images_response(request, replace(wanted, requests=()), delivery, headers=headers)

    async def edits(request: Request) -> Response:
        with service.given.upload() as upload:
            return await answered(request, await wanted_images(service, request, upload=upload))

    async def models(request: Request) -> Response:
        tenant_of(service, request)
        data = [openai.model_item(name, runtime.plan) for name, runtime in service.plans.by_name.items()]
        return JSONResponse(Models(data=data).model_dump())

    async def model(request: Request) -> Response:
        tenant_of(service, request)
        name = request.path_params["model"]
        return JSONResponse(openai.model_item(name, service.plans.find(name).plan).model_dump())

    described = openapi.document(service.settings)

    async def describe(request: Request) -> Response:
        return JSONResponse(described)

    routes = [
        Route("/v1/images/generations", generations, methods=["POST"]),
        Route("/v1/images/edits", edits, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{model}", model),
        Route("/openapi.json", describe),
        *make_job_routes(service, jobs),
        *make_kserve_routes(service),
        *console,
        *make_health_app(service).routes,
    ]
    return _application(routes, guards(service.settings))
