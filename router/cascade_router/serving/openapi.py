"""The OpenAPI document of the HTTP side, with the bounds that are in force here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from cascade_api.reasons import Refusal, Route
from cascade_api.settings import RouterSettings

from ..jobs.records import JobState
from ..requests import BANDS, KEY_LENGTH, MAX_IMAGES, MAX_SEED, SHORTEST_S, TIER_PATTERN
from .http_jobs import LONGEST_WAIT_S
from .http_requests import IDEMPOTENCY_KEY, REQUEST_ID
from .openai import EVENTS, MAX_PARTIAL, NO_TOKENS, QUALITIES
from .openai_fields import CHOICES, NOT_SERVED, TEXTS

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
_NONE: Final = "taken for OpenAI's clients, without effect"
_EFFECTS: Final = {
    "output_format": "png unless given",
    "response_format": "the only one",
    "background": "opaque in any case",
}
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
        200: _ok("the images", "Images", {"text/event-stream": {"schema": _ref("Event")}}),
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
                "model", "One cascade", {200: _ok("the cascade", "Model"), **_errors((400, 401, 404, 405, 500, 503))}
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


def _schemas(settings: RouterSettings) -> Schema:
    prompt = {"type": "string", "minLength": 1, "maxLength": settings.prompt_limit, "pattern": r"\S"}
    number = {"type": ["number", "null"]}
    asked: Schema = {
        "model": {"type": ["string", "null"], "description": "a cascade; may be left out where there is one"},
        "prompt": prompt,
        "size": {"enum": ["auto", None], "description": "or the size of the cascade, as 1024x1024"},
        **{
            name: {"enum": [*choices, None], "description": _EFFECTS.get(name, _NONE)}
            for name, choices in CHOICES.items()
        },
        **{name: {"type": ["string", "null"], "description": _NONE} for name in TEXTS},
        **{name: {"type": "null", "description": f"not served: {why}"} for name, why in NOT_SERVED.items()},
        "output_compression": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": 100,
            "description": "quality of jpeg and webp, 100 being the best; png has no other",
        },
        "negative_prompt": {"type": ["string", "null"], "maxLength": settings.prompt_limit, "pattern": r"^$|\S"},
        "seed": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": MAX_SEED,
            "description": "repeats an image made by the same variant, which the cascade chooses: compare `variant`",
        },
        "deadline_ms": {
            "type": ["number", "null"],
            "minimum": SHORTEST_S * 1000,
            "maximum": settings.deadline_limit_s * 1000,
            "description": "milliseconds from now; the cascade's objective unless given",
        },
        "priority": {
            "anyOf": [{"enum": [*BANDS, None]}, {"type": "integer", "minimum": 0, "maximum": 2**31}],
            "description": "0 is the default, 1 the highest, 3 and above the lowest",
        },
        "tier": {"type": ["string", "null"], "pattern": f"^({TIER_PATTERN})?$"},
    }
    several = {
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_IMAGES},
        "stream": {"type": ["boolean", "null"], "description": "server-sent events; one image only"},
        "partial_images": {
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": MAX_PARTIAL,
            "description": "with `stream`: above 0, the light image is shown while a heavy one is made",
        },
    }
    item: Schema = {
        "b64_json": {"type": "string"},
        "route": {"enum": [str(route) for route in Route]},
        "variant": {"type": "string"},
        "confidence": number,
        "hardness": number,
        "latency_ms": {"type": "number"},
    }
    made_how: Schema = {
        "created": {"type": "integer"},
        "size": {"type": "string"},
        "output_format": {"enum": list(CHOICES["output_format"])},
        "background": {"const": "opaque"},
        "quality": {"enum": list(QUALITIES), "description": "whether the light model made all images, some or none"},
        "usage": {"const": NO_TOKENS, "description": "nothing is counted in tokens"},
    }
    return {
        "ImagesRequest": _request({**asked, **several}),
        "JobRequest": _request(asked),
        "Image": _object(**item),
        "Images": _object(**made_how, data={"type": "array", "items": _ref("Image")}),
        "Event": _object(event={"enum": list(EVENTS)}, data={"type": "string", "description": "JSON"}),
        "Models": _object(object={"const": "list"}, data={"type": "array", "items": _ref("Model")}),
        "Model": _object(
            id={"type": "string"},
            object={"const": "model"},
            created={"type": "integer", "description": "when its plan was made"},
            owned_by={"type": "string", "description": "its namespace"},
        ),
        "Job": _object(
            id={"type": "string"},
            object={"const": "job"},
            status={"enum": [state.value for state in JobState]},
            created_at={"type": "number"},
            deadline_at={"type": "number"},
            finished_at=number,
            result={"anyOf": [_ref("Image"), {"type": "null"}]},
            error={"anyOf": [_ref("Problem"), {"type": "null"}]},
        ),
        "Problem": _object(
            message={"type": "string"},
            type={"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
            param={"type": ["string", "null"]},
            code={"enum": [*(str(reason) for reason in Refusal), None]},
        ),
        "Error": _object(error=_ref("Problem")),
    }


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


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _request(properties: Schema) -> Schema:
    return {"type": "object", "required": ["prompt"], "additionalProperties": False, "properties": properties}
