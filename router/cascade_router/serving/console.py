"""The console over HTTP: a page with its script and style, and what the page reads every second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..console.watching import Watcher
from ..requests import invalid
from ..service import ImageService
from .http_requests import tenant_of

STATE_PATH: Final = "/console/state"
_FOLDER: Final = Path(__file__).with_name("console_page")
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/console/console.css": ("console.css", "text/css"),
    "/console/console.js": ("console.js", "text/javascript"),
    "/console/charts.js": ("charts.js", "text/javascript"),
    "/console/parts.js": ("parts.js", "text/javascript"),
    "/console/playground.js": ("playground.js", "text/javascript"),
}
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""The page loads nothing from elsewhere, runs no script but its own, and stands in no frame."""


def make_console_routes(service: ImageService, watcher: Watcher) -> list[BaseRoute]:
    """The routes of the console; none if it is switched off.

    The page itself says nothing about the cascades, and everybody gets it. What it shows needs an API key where there
    are tenants.
    """

    async def state(request: Request) -> Response:
        tenant_of(service, request)
        since = request.query_params.get("since", "0")
        if not (since.isdecimal() and len(since) <= 15):
            raise invalid("since", "is not a time in Unix milliseconds")
        view = await watcher.view(since_ms=int(since))
        return Response(
            view.model_dump_json(by_alias=True), media_type="application/json", headers={"cache-control": "no-store"}
        )

    if not service.settings.console:
        return []
    return [Route(STATE_PATH, state), *(Route(path, _file(*file)) for path, file in _FILES.items())]


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_FOLDER / name).read_bytes()

    async def get(request: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return get
