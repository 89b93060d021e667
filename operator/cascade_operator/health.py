"""The operator's HTTP endpoint: /healthz (the age of the last tick), /readyz (everything was read once), /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cascade_api.command import CommandFailed

from .metrics import REGISTRY

STALE_S: Final = 60.0
"""If the planner's last tick is older than this, the planner counts as hanging."""


class ProcessHealth:
    """Serves from `start` to `stop`; ``ready`` returns None, or what is still missing."""

    def __init__(
        self,
        *,
        turned_s: Callable[[], float],
        ready: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``turned_s`` returns when the planner last finished a tick, by ``clock``."""
        self._turned_s = turned_s
        self._ready = ready
        self._clock = clock
        self._runner: web.AppRunner | None = None

    async def start(self, address: str) -> None:
        """Listen on ``host:port``; raises CommandFailed if that is not possible."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        host, _, port = address.rpartition(":")
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]") or None, int(port)).start()
        except (OSError, ValueError, OverflowError) as error:
            await self.stop()
            raise CommandFailed(f"CASCADE_OPERATOR_HEALTH_ADDRESS: cannot listen on {address}: {error}") from None

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        age_s = self._clock() - self._turned_s()
        if age_s > STALE_S:
            return web.Response(status=503, text=f"the planner has made no decision for {age_s:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = self._ready()
        return web.Response(text="ok\n") if missing is None else web.Response(status=503, text=f"{missing}\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
