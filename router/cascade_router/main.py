"""The router process: `python -m cascade_router.main`; the environment configures it (`RouterSettings`)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cascade_api.failures import CommandFailed
from cascade_api.files import raise_file_limit
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.settings import RouterSettings, from_environment

from . import logs, tracing
from .bad_data import bad_data
from .bucket import Bucket
from .cascade.state import Limits
from .console.watching import Watcher
from .jobs.runner import JobRunner
from .jobs.store import JobStore
from .moderation import Moderator
from .plans import Plans
from .probing import probe_due
from .queue import WorkQueue
from .rates import SharedRates
from .reporting import DemandCounter, RouterReporter
from .runtime import CascadeRuntime
from .service import ImageService
from .serving.console import make_console_routes
from .serving.http_app import make_app, make_health_app
from .serving.http_jobs import Jobs, explain_refusal, write_answer
from .serving.servers import HEALTH_SHARE, AddressTaken, GrpcServer, HttpServer
from .serving.tls import Certificates, TlsError
from .tenants import Tenants, TenantsError
from .tracing import TracingError

log = structlog.get_logger(__name__)

PROBE_EVERY_S: Final = 0.1
REDIS_TIMEOUT_S: Final = 2.0
FIRST_LOOK_S: Final = 3.0
"""How long a starting router waits for the plans; if Redis is away, it does not wait."""
RENEW_S: Final = 10.0
"""Seconds between two looks at the certificate's files."""
GARBAGE: Final = 10_000
"""Garbage is collected after this many new objects; a request makes about a hundred, which are freed without it."""
CLOSING_S: Final = 3.0
"""How long each part of the router may take to disconnect from Redis at the end."""


class Router:
    """All parts of one router together."""

    def __init__(self, settings: RouterSettings) -> None:
        self.settings = settings
        self.id = settings.router_id or f"{socket.gethostname()}-{os.getpid()}"
        self._redis = Redis.from_url(
            settings.redis_url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        if settings.traces_endpoint:
            tracing.set_up(settings.traces_endpoint, router_id=self.id, share=settings.traces_share)
        self._demand = DemandCounter()
        self._bad_data = bad_data()
        self._reporter = RouterReporter(
            redis=self._redis, router_id=self.id, demand=self._demand, bad_data=self._bad_data
        )
        # Routers begin their evenly spaced draws at different points, so that all of them together are even, too.
        self._start = zlib.crc32(self.id.encode()) / 2**32
        self._plans = Plans(
            redis=self._redis, make_runtime=self._make_runtime, bad_data=self._bad_data, clock=time.monotonic
        )
        self._moderator = Moderator(settings)
        self.service = ImageService(
            settings=settings,
            plans=self._plans,
            rng=random.Random(),  # noqa: S311 - no secrets
            demand=self._demand,
            tenants=Tenants(
                Path(settings.tenants_file) if settings.tenants_file else None,
                rates=SharedRates(self._redis, clock=time.monotonic),
                clock=time.monotonic,
            ),
            moderator=self._moderator,
            bucket=Bucket(settings, clock=time.monotonic),
            clock=time.monotonic,
        )
        self._certificates = Certificates.of(settings)
        self._grpc = GrpcServer(self.service)
        store = JobStore(
            self._redis,
            keep_s=settings.job_result_s,
            limit=settings.job_limit,
            bytes_limit=settings.job_bytes_limit,
            tenant_share=settings.job_tenant_percent / 100 if settings.tenants_file else 1.0,
            bad_data=self._bad_data,
        )
        runner = JobRunner(service=self.service, store=store, write=write_answer, explain=explain_refusal)
        self._jobs = Jobs(store, runner)
        self._watcher = Watcher(redis=self._redis, plans=self._plans, router_id=self.id, bad_data=self._bad_data)
        app = make_app(self.service, self._jobs, make_console_routes(self.service, self._watcher))
        self._http = HttpServer(app, setting="CASCADE_ROUTER_HTTP_ADDRESS")
        self._health = HttpServer(
            make_health_app(self.service), setting="CASCADE_ROUTER_HEALTH_ADDRESS", share=HEALTH_SHARE
        )
        self.broken = False
        """Whether a part of the router died; then the process ends, and its supervisor restarts it."""
        self.grpc_address = ""
        self.http_address = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Router]:
        """Serve inside the block, and drain at its end. Raises AddressTaken."""
        background: list[asyncio.Task[None]] = []
        try:
            self.service.starting = True
            if self.settings.health_address:
                await self._health.start(self.settings.health_address, None)
            background.append(self._forever(self._plans.follow()))
            # Whoever is connected first should not hear that there are no plans yet.
            await self._plans.first_look(FIRST_LOOK_S)
            self.grpc_address = await self._grpc.start(self.settings.grpc_address, self._certificates)
            self.http_address = await self._http.start(self.settings.http_address, self._certificates)
            self.service.starting = False
            background += map(
                self._forever,
                (
                    self._reporter.run(self._plans.runtimes),
                    self._probe(),
                    self._renew_certificates(),
                    self._jobs.runner.run(),
                    self._grpc.watch_health(),
                    *([self._watcher.run()] if self.settings.console else []),
                ),
            )
            log.info("serving", router=self.id, grpc=self.grpc_address, http=self.http_address)
            yield self
        finally:
            if self.grpc_address:
                log.info("stopping", drained=await self._drain())
            for server in (self._http, self._health):
                await server.stop()
            await _ended(background)
            # Redis or the collector may hang just now; what Redis holds of this router expires by itself.
            for closing in (
                self._plans.close(),
                self._moderator.close(),
                self._redis.aclose(),
                asyncio.to_thread(tracing.close),
            ):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSING_S):
                        await closing

    async def _drain(self) -> bool:
        """Send clients elsewhere and finish the requests in hand; False if the time was too short."""
        leaving = asyncio.ensure_future(self._grpc.stop(self.settings.drain_s))
        self._http.leave()
        drained = await self.service.drain(self.settings.drain_s)
        await self._grpc.stop(0.5)
        await leaving
        return drained

    async def _make_runtime(self, ref: CascadeRef, plan: Plan) -> CascadeRuntime:
        queue = WorkQueue(
            url=self.settings.redis_url,
            ref=ref,
            router_id=self.id,
            limit=self.settings.queue_limit,
            on_bad_data=self._bad_data.found,
        )
        await queue.start()
        limits = Limits(waiting=self.settings.queue_limit, in_hand=self.settings.request_limit)
        runtime = CascadeRuntime(
            ref=ref, plan=plan, queue=queue, limits=limits, clock=time.monotonic, start=self._start
        )
        await runtime.apply(plan)
        return runtime

    async def _probe(self) -> None:
        while True:
            await asyncio.gather(*(probe_due(runtime) for runtime in self._plans.runtimes))
            await asyncio.sleep(PROBE_EVERY_S)

    async def _renew_certificates(self) -> None:
        while self._certificates is not None:
            await asyncio.sleep(RENEW_S)
            self._certificates.refresh()

    def _forever(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._died)
        return task

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("background work died", exc_info=task.exception())
            self.broken = True
            os.kill(os.getpid(), signal.SIGTERM)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: before Python 3.12, `wait_for` can lose a cancellation at its time-out."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


async def serve(settings: RouterSettings) -> None:
    """Run a router until SIGTERM or SIGINT. Raises AddressTaken, or SystemExit(1) if a part of the router died."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Router(settings).running() as router:
        # What the start made stays for good: no use to hold requests up while it is searched for garbage.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        await stop.wait()
    if router.broken:
        sys.exit(1)


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def main() -> None:
    """Entry point of `cascade-router`."""
    logs.set_up()
    raise_file_limit()
    try:
        _run(serve(from_environment(RouterSettings)))
    except (CommandFailed, AddressTaken, TlsError, TenantsError, TracingError) as error:
        sys.stderr.write(f"cascade-router: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
