"""Keeps pages of other sites from using the router through the browser of a user who can reach the router.

A browser sends the origin of the page that makes a request (`Origin`), and the name under which it found the router
(`Host`). `Origin` reveals pages of other sites. `Host` reveals DNS rebinding, where a site lets its own name resolve to
the router's address so that its pages seem to be of the same origin.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cascade_api.settings import RouterSettings

from . import openai
from .http_requests import error_of
from .servers import split_address

ANY: Final = "*"
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{0,5})?")
_EXPOSED_HEADERS: Final = ("cascade-ignored", "cascade-reason", "location", "retry-after", "x-request-id")
"""Headers of answers that pages of allowed origins may read."""


def host_rule(settings: RouterSettings) -> Callable[[str], bool]:
    """A test whether the router answers under a host name (or an address without brackets).

    If the settings have no names, these are accepted: `localhost`, loopback addresses, and the address on which HTTP
    listens. If that is the unspecified address (such as 0.0.0.0), every address is accepted: only names can be made to
    point here by other people.
    """
    names = [name.lower() for name in settings.allowed_hosts]
    if ANY in names:
        return lambda host: True
    if names:
        exact = {name.strip("[]") for name in names if not name.startswith("*.")}
        domains = tuple(name[1:] for name in names if name.startswith("*."))
        return lambda host: host in exact or host.endswith(domains)
    own = split_address(settings.http_address, setting="CASCADE_ROUTER_HTTP_ADDRESS")[0].lower()
    own_address = _address(own)
    everywhere = own_address is not None and own_address.is_unspecified

    def is_own(host: str) -> bool:
        address = _address(host)
        if address is None:
            return host in ("localhost", own)
        return everywhere or address.is_loopback or address == own_address

    return is_own


def guards(settings: RouterSettings) -> list[Middleware]:
    """The middleware around the application, the outermost first."""
    found = [Middleware(KnownPages, answers_to=host_rule(settings), origins=settings.allowed_origins)]
    if settings.allowed_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=[ANY],
                allow_private_network=True,
                expose_headers=_EXPOSED_HEADERS,
            )
        )
    return found


class KnownPages:
    """Refuses requests under an unknown host name, and requests of pages that are neither the router's nor allowed."""

    def __init__(self, app: ASGIApp, *, answers_to: Callable[[str], bool], origins: Sequence[str]) -> None:
        self._app = app
        self._answers_to = answers_to
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        app = self._app
        problem = self._problem(headers.get("host"), headers.getlist("origin"))
        if problem is not None:
            status, message = problem
            content = openai.error_body(message, kind="invalid_request_error")
            app = JSONResponse(error_of(scope["path"], content), status)
        await app(scope, receive, send)

    def _problem(self, host: str | None, origins: Sequence[str]) -> tuple[int, str] | None:
        """Status and message of a refusal."""
        if host is not None:  # only HTTP/1.0 may leave it out, and no browser uses that
            match = _AUTHORITY.fullmatch(host)
            if match is None:
                return 400, f"Host: {host[:80]!r} is not a name or an address with an optional port"
            if not self._answers_to(match[1].strip("[]").removesuffix(".").lower()):
                return 403, (
                    f"Host: {match[1][:80]!r} is not a name of this router; CASCADE_ROUTER_ALLOWED_HOSTS lists them"
                )
        for origin in origins:
            if origin not in self._origins and ANY not in self._origins and not _same(origin, host):
                return 403, (
                    f"Origin: pages of {origin[:80]!r} may not use this router;"
                    " CASCADE_ROUTER_ALLOWED_ORIGINS lists those that may"
                )
        return None


def _same(origin: str, host: str | None) -> bool:
    """Whether a page came from the host to which it sends its request.

    The scheme is not compared, because a proxy that ends TLS before the router changes it.
    """
    try:
        return host is not None and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
