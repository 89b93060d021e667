"""The OpenAPI document of the HTTP routes, with the limits that this router's settings give."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from cascade_api.settings import RouterSettings

from ..requests import KEY_LENGTH
from . import kserve_bodies
from . import openai_bodies as bodies
from .http_jobs import LONGEST_WAIT_S
from .http_requests import FORM, IDEMPOTENCY_KEY, JSON, REQUEST_ID

Schema = dict[str, Any]

ERRORS: Final = {
    400: "the request is invalid; the error names the field",
    401: "the API key is missing or unknown",
    403: "the router does not answer under this host name, or not to pages of this origin",
    404: "no such model or job",
    405: "no such method for this path",
    408: "the request did not come within the time allowed",
    409: "a request with the same idempotency key is being served, or the key was used for a different request",
    410: "the result of the job was removed to make room for newer ones",
    413: "the body is too long",
    415: "the content type of the body is another",
    429: "a rate or a queue limit is reached; `retry-after` says when to try again",
    500: "a defect of the router, which its log explains under the request id",
    503: "no model can serve this now; `retry-after` says when to try again",
    504: "the image was not ready by the deadline",
}
IMAGE_BODIES: Final = (bodies.ImagesRequest, bodies.JobRequest, bodies.EditsRequest)
REQUEST_BODIES: Final = (*IMAGE_BODIES, kserve_bodies.InferRequest)
RESPONSE_BODIES: Final = (
    bodies.Images,
    bodies.StreamEvent,
    bodies.Models,
    bodies.Job,
    bodies.Error,
    kserve_bodies.InferResponse,
    kserve_bodies.KserveError,
)
CREATE_ERRORS: Final = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503, 504)
READ_ERRORS: Final = (400, 401, 403, 404, 405, 410, 429, 500, 503)


def document(settings: RouterSettings) -> Schema:
    """The document as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Diffusion Cascade",
            "version": version("diffusion-cascade"),
            "description": "Images from cascades of diffusion models, through OpenAI's images API or as jobs.",
        },
        "security": [{}, {"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(settings),
        },
    }


def _paths() -> Schema:
    images = {
        200: _ok("the images", "Images", {"text/event-stream": {"schema": _ref("StreamEvent")}}),
        **_errors(CREATE_ERRORS),
    }
    job = _ok("the job", "Job")
    one_job = {"name": "job", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    wait = {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT_S, "default": 0}
    return {
        "/v1/images/generations": {
            "post": _operation("generate", "Make images", images, body="ImagesRequest", parameters=[_REQUEST_ID, _KEY])
        },
        "/v1/images/edits": {
            "post": _operation(
                "edit", "Change an image", images, body="EditsRequest", kind=FORM, parameters=[_REQUEST_ID, _KEY]
            )
        },
        "/v1/models": {
            "get": _operation(
                "models", "List the cascades", {200: _ok("their names", "Models"), **_errors((400, 401, 403, 405, 500))}
            )
        },
        "/v1/models/{model}": {
            "parameters": [
                {**_header("model", "its name", {"type": "string", "minLength": 1}), "in": "path", "required": True}
            ],
            "get": _operation(
                "model",
                "Show one cascade",
                {200: _ok("the cascade", "ListedModel"), **_errors((400, 401, 404, 405, 500, 503))},
            ),
        },
        "/v1/jobs": {
            "post": _operation(
                "submit",
                "Request an image that is fetched later",
                {202: job, **_errors(CREATE_ERRORS)},
                body="JobRequest",
                parameters=[_REQUEST_ID, _KEY],
            )
        },
        "/v1/jobs/{job}": {
            "parameters": [one_job],
            "get": _operation(
                "job",
                "Show a job, with its result once it has ended",
                {200: job, **_errors(READ_ERRORS)},
                parameters=[
                    {"name": "wait", "in": "query", "description": "seconds to wait for its end", "schema": wait}
                ],
            ),
            "delete": _operation("cancel", "Cancel a job", {200: job, **_errors(READ_ERRORS)}),
        },
        **_kserve_paths(),
        "/healthz": {"get": _plain("alive", "Whether the process answers", "ok")},
        "/startedz": {"get": _plain("started", "Whether the router has received plans", "started", why=True)},
        "/readyz": {"get": _plain("ready", "Whether the router can serve prompts now", "ready", why=True)},
        "/metrics": {"get": _plain("metrics", "Prometheus metrics", "metrics")},
        "/openapi.json": {
            "get": _operation(
                "document",
                "This document",
                {200: _content("the document", {"application/json": {"schema": {"type": "object"}}})},
            )
        },
    }


def _kserve_paths() -> Schema:
    """KServe's protocol. The versions of a model are left out: there is only one."""
    anything = {"application/json": {"schema": {"type": "object"}}}
    name = {**_header("model", "name of a cascade", {"type": "string", "minLength": 1}), "in": "path", "required": True}
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

    def errors(*statuses: int) -> dict[int, Schema]:
        return {status: _ok(ERRORS[status], "KserveError") for status in statuses}

    def reads(operation: str, summary: str, *statuses: int) -> Schema:
        return {"get": _operation(operation, summary, {200: _content("it", anything), **errors(*statuses)})}

    unready = {503: _content("the reason why not", anything)}
    ready = {200: _content("it is", anything), **unready}
    known = (401, 403, 404, 405, 500, 503)
    infer = _operation(
        "infer",
        "Make images, by KServe's protocol",
        {200: _ok("the images", "InferResponse", octets), **errors(*CREATE_ERRORS)},
        body="InferRequest",
        parameters=[_REQUEST_ID],
    )
    return {
        "/v2": {"get": _operation("server", "Describe the server", {200: _content("its name", anything)})},
        "/v2/health/live": {
            "get": _operation("v2-live", "Whether the process answers", {200: _content("ok", anything)})
        },
        "/v2/health/ready": {"get": _operation("v2-ready", "Whether the router can serve prompts now", ready)},
        "/v2/models/{model}": {"parameters": [name], **reads("metadata", "Describe a cascade", *known)},
        "/v2/models/{model}/ready": {
            "parameters": [name],
            "get": _operation(
                "model-ready", "Whether a cascade can serve prompts now", {**ready, **errors(403, 404, 405, 500)}
            ),
        },
        "/v2/models/{model}/config": {"parameters": [name], **reads("config", "Its configuration", *known)},
        "/v2/models/{model}/stats": {"parameters": [name], **reads("statistics", "Its statistics", *known)},
        "/v2/models/{model}/infer": {"parameters": [name], "post": infer},
        "/v2/repository/index": {
            "post": _operation(
                "index",
                "List the cascades",
                {
                    200: _content("them", {"application/json": {"schema": {"type": "array"}}}),
                    **errors(401, 403, 405, 500),
                },
            )
        },
    }


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which would only repeat the names of the fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas(settings: RouterSettings) -> Schema:
    """The schemas of the models, with the limits that are settings."""
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in REQUEST_BODIES),
            *((model, "serialization") for model in RESPONSE_BODIES),
        ],
        ref_template=_ref("{model}")["$ref"],
        schema_generator=_Untitled,
    )
    schemas: Schema = definitions["$defs"]
    for model in IMAGE_BODIES:
        fields = schemas[model.__name__]["properties"]
        for name in ("prompt", "negative_prompt"):
            fields[name]["maxLength"] = settings.prompt_limit
        fields["deadline_ms"]["maximum"] = settings.deadline_limit_s * 1000
        if not settings.bucket:
            fields["response_format"] = {"enum": ["b64_json", None], "description": "b64_json is the only format"}
    return schemas


def _header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


_REQUEST_ID: Final = _header(
    REQUEST_ID, "returned with the answer, and recorded in logs and traces; need not be unique", {"type": "string"}
)
_KEY: Final = _header(
    IDEMPOTENCY_KEY,
    "only one request with the same key is served at a time; for jobs, a key always means the same job",
    {"type": "string", "maxLength": KEY_LENGTH},
)


def _operation(
    name: str,
    summary: str,
    responses: Mapping[int, Schema],
    *,
    body: str | None = None,
    kind: str = JSON,
    parameters: list[Schema] | None = None,
) -> Schema:
    content = {kind: {"schema": _ref(body)}} if body else {}
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"required": True, "content": content}} if body else {}),
        "responses": {str(status): response for status, response in responses.items()},
    }


def _plain(name: str, summary: str, description: str, *, why: bool = False) -> Schema:
    text = {"text/plain": {"schema": {"type": "string"}}}
    unready = {503: _content("the reason why not", text)} if why else {}
    return _operation(name, summary, {200: _content(description, text), **unready})


def _ok(description: str, schema: str, more: Schema | None = None) -> Schema:
    return _content(description, {"application/json": {"schema": _ref(schema)}, **(more or {})})


def _errors(statuses: tuple[int, ...]) -> dict[int, Schema]:
    return {status: _ok(ERRORS[status], "Error") for status in statuses}


def _content(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}


def _ref(name: str | None) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
