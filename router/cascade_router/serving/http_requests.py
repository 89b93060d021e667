"""What all HTTP routes share: identify the caller, read the body, check a request for images, and write errors in
OpenAI's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from cascade_api.reasons import Refusal

from ..admission import check_size, check_wish
from ..given_images import Upload
from ..requests import Receipt, RequestRefused, check_key, printable_id
from ..service import ImageService, RouterDefect
from ..tracing import context_of
from . import openai
from .http_bodies import CLOSE, bounded, read_form
from .statuses import HTTP

log = structlog.get_logger(__name__)

BODY_LIMIT: Final = 1024 * 1024
JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
OCTETS: Final = "application/octet-stream"
KSERVE: Final = "/v2"
"""Errors below this path have the form of KServe's protocol, all others that of OpenAI's."""
REQUEST_ID: Final = "x-request-id"
IDEMPOTENCY_KEY: Final = "idempotency-key"
IGNORED: Final = "cascade-ignored"
"""Header of answers that names the fields which had no effect."""


def request_id_of(request: Request) -> str:
    """The id that the client chose, or a new one; every answer to the request carries it."""
    if not hasattr(request.state, "id"):
        request.state.id = printable_id(request.headers.get(REQUEST_ID, ""))
    return str(request.state.id)


def answer_headers(request: Request, wanted: openai.WantedImages) -> dict[str, str]:
    """The headers of every answer to a valid request for images."""
    ignored = {IGNORED: ", ".join(wanted.ignored)} if wanted.ignored else {}
    return {REQUEST_ID: request_id_of(request), **ignored}


def tenant_of(service: ImageService, request: Request) -> str:
    """The tenant who calls. Raises RequestRefused, and counts the refusal."""
    try:
        return service.tenants.identify(authorization=request.headers.get("authorization"))
    except RequestRefused as refused:
        service.accounts.invalid(refused)
        raise


async def wanted_images(
    service: ImageService, request: Request, *, stored: bool = False, upload: Upload | None = None
) -> openai.WantedImages:
    """A valid request for images of a cascade that exists. Raises RequestRefused, and counts the refusal.

    Args:
        stored: whether images go into the bucket, if there is one and the client asks for nothing else.
        upload: counts the bytes of a request that brings an image; None: it is JSON.
    """
    receipt = Receipt(at=service.clock(), tenant=tenant_of(service, request), trace=context_of(request.headers.items()))
    check_content_type(request, JSON if upload is None else FORM)
    body = await read_body(request) if upload is None else b""
    try:
        names = list(service.plans.by_name)
        if not names:
            service.plans.find("")  # raises the refusal that says why
        wanted = openai.read_body(
            body if upload is None else await read_form(request, upload),
            request_id=request_id_of(request),
            idempotency_key=check_key(request.headers.get(IDEMPOTENCY_KEY, ""), field=IDEMPOTENCY_KEY),
            default_model=names[0] if len(names) == 1 else None,
            receipt=receipt,
            settings=service.settings,
            stored=stored,
        )
        runtime = service.plans.find(wanted.requests[0].model)
        check_wish(runtime, wanted.requests[0], among=service.plans.by_name)
        check_size(runtime, wanted.requests[0])
    except RequestRefused as refused:
        service.accounts.invalid(refused)
        raise
    return wanted


def check_content_type(request: Request, *allowed: str) -> None:
    """Require a content type that browsers let pages of other sites send only after asking the router (CORS).

    Clients of KServe send none with bytes; a page then still has an `Origin`, see `http_origins`.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() not in allowed:
        raise HTTPException(415, f"content-type: is {kind[:80]!r}; send {allowed[0]}", CLOSE)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"content-encoding: is {encoding[:80]!r}; send the body as it is", CLOSE)


async def read_body(request: Request) -> bytes:
    """The body of a request, if it is not too long and comes soon enough. Raises HTTPException."""
    return b"".join([chunk async for chunk in bounded(request, limit=BODY_LIMIT)])


async def _refused(request: Request, error: Exception) -> Response:
    status, content, headers = openai.refusal_body(cast(RequestRefused, error))
    return _error(request, content, status, headers={**headers, REQUEST_ID: request_id_of(request)})


async def _failed(request: Request, error: Exception) -> Response:
    return _error(request, openai.error_body(str(error), kind="server_error"), 500)


def _error(
    request: Request, content: dict[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> Response:
    return JSONResponse(error_of(request.url.path, content), status, headers=headers)


def error_of(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """An error in OpenAI's form, in that of the protocol that a path belongs to."""
    return {"error": content["error"]["message"]} if path.startswith(f"{KSERVE}/") else content


async def _defect(request: Request, error: Exception) -> Response:
    log.error("request failed", request=request_id_of(request), exc_info=error)
    return await _failed(request, RouterDefect(request_id_of(request)))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTP[Refusal.CANCELLED])  # nobody reads it


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "error"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    message = f"{request.method} {request.url.path}: {detail}"
    return _error(request, openai.error_body(message, kind="invalid_request_error"), status, headers)


EXCEPTION_HANDLERS: Final[dict[Any, Any]] = {
    RequestRefused: _refused,
    RouterDefect: _failed,
    ClientDisconnect: _gone,
    HTTPException: _http_error,
    Exception: _defect,
}
