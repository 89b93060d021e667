"""The OpenAPI document of the HTTP side, with the bounds that are in force here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from cascade_api.settings import RouterSettings

from ..requests import KEY_LENGTH
from . import openai_bodies as bodies
from .http_jobs import LONGEST_WAIT_S
from .http_requests import IDEMPOTENCY_KEY, REQUEST_ID

Schema = dict[str, Any]

ERRORS: Final = {
    400: "the request is wrong; the error names the field",
    401: "the API key is missing or unknown",
    403: "the host is none of the router's, or the page that asks may not use it",
    404: "no such model or job",
    405: "no such method here",
    408: "the request did not come within the time allowed",
    409: "a request with the same idempotency key is being served, or was another one",
    410: "the result of the job was removed to make room for newer ones",
    413: "the body is too long",
    415: "the body is not said to be JSON",
    429: "too much is asked for; `retry-after` says when to come back",
    500: "a defect of the router, which its log explains under the request id",
    503: "nothing can serve this now; `retry-after` says when to come back",
    504: "there is no image by the deadline",
}
SENT: Final = (bodies.ImagesRequest, bodies.JobRequest)
TOLD: Final = (bodies.Images, bodies.StreamEvent, bodies.Models, bodies.Job, bodies.Error)
ASKING: Final = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503, 504)
LOOKING: Final = (400, 401, 403, 404, 405, 410, 429, 500, 503)


def document(settings: RouterSettings) -> Schema:
    """The document as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Diffusion Cascade",
            "version": version("diffusion-cascade"),
            "description": "Images from cascades of diffusion models, as OpenAI's clients ask for them, and as jobs.",
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
        **_errors(ASKING),
    }
    job = _ok("the job", "Job")
    one_job = {"name": "job", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    wait = {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT_S, "default": 0}
    return {
        "/v1/images/generations": {
            "post": _operation("generate", "Make images", images, body="ImagesRequest", parameters=[_REQUEST_ID, _KEY])
        },
        "/v1/models": {
            "get": _operation(
                "models", "The cascades", {200: _ok("their names", "Models"), **_errors((400, 401, 403, 405, 500))}
            )
        },
        "/v1/models/{model}": {
            "parameters": [
                {**_header("model", "a cascade", {"type": "string", "minLength": 1}), "in": "path", "required": True}
            ],
            "get": _operation(
                "model",
                "One cascade",
                {200: _ok("the cascade", "ListedModel"), **_errors((400, 401, 404, 405, 500, 503))},
            ),
        },
        "/v1/jobs": {
            "post": _operation(
                "submit",
                "Ask for an image that is fetched later",
                {202: job, **_errors(ASKING)},
                body="JobRequest",
                parameters=[_REQUEST_ID, _KEY],
            )
        },
        "/v1/jobs/{job}": {
            "parameters": [one_job],
            "get": _operation(
                "job",
                "What became of a job",
                {200: job, **_errors(LOOKING)},
                parameters=[
                    {"name": "wait", "in": "query", "description": "seconds to wait for its end", "schema": wait}
                ],
            ),
            "delete": _operation("cancel", "Cancel a job", {200: job, **_errors(LOOKING)}),
        },
        "/healthz": {"get": _plain("alive", "The process answers", "ok")},
        "/startedz": {"get": _plain("started", "It knows the plans", "started", why=True)},
        "/readyz": {"get": _plain("ready", "It can serve prompts now", "ready", why=True)},
        "/metrics": {"get": _plain("metrics", "Prometheus metrics", "metrics")},
        "/openapi.json": {
            "get": _operation(
                "document", "This document", {200: _content("it", {"application/json": {"schema": {"type": "object"}}})}
            )
        },
    }


class _Untitled(GenerateJsonSchema):
    """Without titles, which would say the names of all fields once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schemas(settings: RouterSettings) -> Schema:
    """The models' schemas, with the bounds that are settings."""
    _, definitions = models_json_schema(
        [*((model, "validation") for model in SENT), *((model, "serialization") for model in TOLD)],
        ref_template=_ref("{model}")["$ref"],
        schema_generator=_Untitled,
    )
    schemas: Schema = definitions["$defs"]
    for model in SENT:
        fields = schemas[model.__name__]["properties"]
        for name in ("prompt", "negative_prompt"):
            fields[name]["maxLength"] = settings.prompt_limit
        fields["deadline_ms"]["maximum"] = settings.deadline_limit_s * 1000
    return schemas


def _header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


_REQUEST_ID: Final = _header(
    REQUEST_ID, "comes back, and stands in logs and traces; need not be unique", {"type": "string"}
)
_KEY: Final = _header(
    IDEMPOTENCY_KEY,
    "one request at a time with the same key; of jobs, one job for good",
    {"type": "string", "maxLength": KEY_LENGTH},
)


def _operation(
    name: str,
    summary: str,
    responses: Mapping[int, Schema],
    *,
    body: str | None = None,
    parameters: list[Schema] | None = None,
) -> Schema:
    content = {"application/json": {"schema": _ref(body)}} if body else {}
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"required": True, "content": content}} if body else {}),
        "responses": {str(status): response for status, response in responses.items()},
    }


def _plain(name: str, summary: str, said: str, *, why: bool = False) -> Schema:
    text = {"text/plain": {"schema": {"type": "string"}}}
    unready = {503: _content("not so, and why", text)} if why else {}
    return _operation(name, summary, {200: _content(said, text), **unready})


def _ok(description: str, schema: str, more: Schema | None = None) -> Schema:
    return _content(description, {"application/json": {"schema": _ref(schema)}, **(more or {})})


def _errors(statuses: tuple[int, ...]) -> dict[int, Schema]:
    return {status: _ok(ERRORS[status], "Error") for status in statuses}


def _content(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}


def _ref(name: str | None) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
