"""Asks a router over HTTP what its cascades do."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from cascade_api.command import CommandFailed
from cascade_api.console import ConsoleView

ANSWER_S: Final = 10.0
_LIMIT: Final = 64 * 2**20


@dataclass(frozen=True)
class Source:
    """A router's HTTP side, at ``http://HOST:PORT`` or ``https://…``; ``context`` is for the latter."""

    url: str
    api_key: str = ""
    context: ssl.SSLContext | None = None

    def look(self) -> ConsoleView:
        """All cascades now, with the last hour; raises CommandFailed."""
        request = urllib.request.Request(f"{self.url}/console/state")  # noqa: S310 - http or https, as was checked
        if self.api_key:
            request.add_header("authorization", f"Bearer {self.api_key}")
        # Straight to the router, whatever the environment says of proxies.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.context)
        )
        try:
            with opener.open(request, timeout=ANSWER_S) as answer:
                return ConsoleView.model_validate_json(answer.read(_LIMIT))
        except urllib.error.HTTPError as error:
            raise CommandFailed(f"{self.url}: {_refusal(error)}") from None
        except (OSError, http.client.HTTPException) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise CommandFailed(f"--http: no router answers at {self.url}: {why}") from None
        except ValidationError:
            raise CommandFailed(f"--http: what answers at {self.url} is no router of this version") from None


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code == http.client.NOT_FOUND:
        return "its console is switched off (CASCADE_ROUTER_CONSOLE), or it is no router"
    if error.code == http.client.UNAUTHORIZED:
        return "--api-key: it needs the key of a tenant"
    try:
        return str(json.loads(error.read(_LIMIT))["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {error.code}"
