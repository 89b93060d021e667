"""KServe v2 over HTTP: what `grpc_service` offers over gRPC, with the same inputs, parameters, outputs and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from cascade_api.reasons import Refusal

from ..admission import check_size
from ..requests import MadeImage, Receipt, RequestRefused
from ..runtime import CascadeRuntime
from ..service import ImageService
from ..tracing import context_of
from . import describe, kserve, kserve_bodies
from .http_images import ImagesResponse, until_disconnect
from .http_requests import JSON, OCTETS, REQUEST_ID, check_content_type, read_body, request_id_of, tenant_of
from .kserve import MODEL_CONTROL, SERVER_NAME
from .parts import Part

JSON_LENGTH: Final = "inference-header-content-length"
EXTENSIONS: Final = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def make_kserve_routes(service: ImageService) -> list[BaseRoute]:
    """The routes below ``/v2``."""

    async def server(request: Request) -> Response:
        told = {"name": SERVER_NAME, "version": version("diffusion-cascade"), "extensions": EXTENSIONS}
        return JSONResponse(told)

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return _readiness("ready", service.why_not_ready())

    async def model_ready(request: Request) -> Response:
        return _readiness("ready", _model(request).state.why_not_ready())

    async def metadata(request: Request) -> Response:
        tenant_of(service, request)
        told = kserve_bodies.plain(describe.model_metadata(_model(request), model=_name(request)))
        return JSONResponse(told)

    async def config(request: Request) -> Response:
        tenant_of(service, request)
        return JSONResponse(kserve_bodies.plain(describe.model_config(_model(request), model=_name(request)).config))

    async def statistics(request: Request) -> Response:
        tenant_of(service, request)
        named = "model" in request.path_params
        found = {_name(request): _model(request)} if named else service.plans.by_name
        told = [kserve_bodies.plain(describe.model_statistics(each, model=name)) for name, each in found.items()]
        return JSONResponse({"model_stats": told})

    async def index(request: Request) -> Response:
        tenant_of(service, request)
        states = {name: runtime.state.why_not_ready() for name, runtime in service.plans.by_name.items()}
        told = [
            {
                "name": name,
                "version": kserve.VERSION,
                "state": "UNAVAILABLE" if problem else "READY",
                "reason": problem or "",
            }
            for name, problem in states.items()
        ]
        return JSONResponse(told)

    async def control(request: Request) -> Response:
        raise HTTPException(501, MODEL_CONTROL)

    async def infer(request: Request) -> Response:
        tenant = tenant_of(service, request)
        receipt = Receipt(at=service.clock(), tenant=tenant, trace=context_of(request.headers.items()))
        check_content_type(request, JSON, OCTETS, "")
        body = await read_body(request)
        try:
            asked = kserve_bodies.read_infer(
                body,
                json_length=_json_length(request),
                model=_name(request),
                version=request.path_params.get("version", ""),
            )
            if not asked.message.id:
                asked.message.id = request_id_of(request)
            requests, form = kserve.read_requests(asked.message, settings=service.settings, receipt=receipt)
            runtime = service.plans.find(_name(request))
            check_size(runtime, requests[0])
            image = runtime.plan.image_of(requests[0].size)
            kserve_bodies.check_outputs(asked, form.outputs, pixels=len(requests) * image.width * image.height)
        except RequestRefused as refused:
            service.accounts.invalid(refused)
            raise

        def write(answers: Sequence[MadeImage | RequestRefused]) -> tuple[list[Part], dict[str, str]]:
            response = kserve.write_response(answers, form, request_id=asked.message.id, model=_name(request))
            parts, json_length = kserve_bodies.write_infer(response, asked)
            if json_length is None:
                return [*parts], {"content-type": JSON}
            return [*parts], {"content-type": OCTETS, JSON_LENGTH: str(json_length)}

        delivery = await until_disconnect(
            request, lambda: service.generate(requests, protocol="http-kserve", partial=form.partial)
        )
        return ImagesResponse(request, delivery, write, headers={REQUEST_ID: request_id_of(request)})

    def _model(request: Request) -> CascadeRuntime:
        """The cascade that a request names. Raises RequestRefused."""
        asked = request.path_params.get("version", kserve.VERSION)
        if asked != kserve.VERSION:
            raise RequestRefused(
                Refusal.UNKNOWN_MODEL,
                f"version: {asked[:40]!r} is not served; there is {kserve.VERSION}",
                field="version",
            )
        return service.plans.find(_name(request))

    of_model = [
        ("", metadata, "GET"),
        ("/ready", model_ready, "GET"),
        ("/config", config, "GET"),
        ("/stats", statistics, "GET"),
        ("/infer", infer, "POST"),
    ]
    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/stats", statistics),
        *(
            Route(f"/v2/models/{{model}}{versions}{path}", endpoint, methods=[method])
            for versions in ("", "/versions/{version}")
            for path, endpoint, method in of_model
        ),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/repository/models/{model}/{action:str}", control, methods=["POST"]),
    ]


def _name(request: Request) -> str:
    return str(request.path_params["model"])


def _readiness(word: str, problem: str | None) -> Response:
    return JSONResponse({word: True}) if problem is None else JSONResponse({word: False, "error": problem}, 503)


def _json_length(request: Request) -> int | None:
    text = request.headers.get(JSON_LENGTH)
    if text is None:
        return None
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
