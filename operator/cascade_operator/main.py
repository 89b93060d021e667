"""The operator process, `cascade-operator`; the environment configures it (`OperatorSettings`, `PlannerSettings`)."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import kopf
import structlog

from cascade_api.command import CommandFailed
from cascade_api.files import raise_file_limit
from cascade_api.names import CascadeRef
from cascade_api.settings import OperatorSettings, PlannerSettings, from_environment

from . import handlers, logs, metrics
from .cluster_reporter import ClusterReporter
from .cluster_source import ClusterSource, ResourceChecker
from .clusters import ClusterFailed
from .clusters.kubernetes.api import KubernetesApi, connect
from .clusters.kubernetes.driver import KubernetesCluster
from .clusters.kubernetes.keys import own_secret
from .clusters.kubernetes.mirror import Mirror
from .health import ProcessHealth
from .loop import Loop
from .notices import Notices
from .planning.planner import Planner
from .store import Store

log = structlog.get_logger(__name__)

HEARTBEAT_S: Final = 5.0
"""Pause between two checks that the API server answers."""
AWAY_S: Final = 1.0
OLDEST_SUPPORTED: Final = (1, 30)
IDENTITY: Final[Any] = "diffusion-cascade"
"""The identity of this operator among its peers, of which there are none; kopf does not export the type."""


class Operator:
    """All parts of the operator together."""

    def __init__(self, settings: OperatorSettings, planner: PlannerSettings) -> None:
        self._settings = settings
        client = connect(timeout_s=settings.api_timeout_s)
        self._api = KubernetesApi(client, timeout_s=settings.api_timeout_s, count=metrics.count_request)
        self._mirror = Mirror(
            self._api,
            namespaces=settings.namespaces,
            keeps_policies=settings.worker_network_policy is not None,
            changed=lambda: self._loop.wake(),
        )
        notices = Notices(self._api, uid_of=self._uid_of)
        self._reporter = ClusterReporter(self._api, self._mirror, notices)
        self._cluster = KubernetesCluster(
            self._api,
            self._mirror,
            settings=settings,
            notice=self._reporter.notice,
            changed=lambda: self._loop.wake(),
        )
        self._store = Store(settings.redis_url, count_bad=metrics.count_bad_data)
        decides = Planner(planner, classes=settings.classes)
        self._loop = Loop(
            ClusterSource(self._mirror, ResourceChecker(decides.preparations)),
            cluster=self._cluster,
            store=self._store,
            decide=decides.decide,
            reporter=self._reporter,
        )
        self._health = ProcessHealth(turned_s=lambda: self._loop.turned_s, ready=self._missing)

    async def run(self) -> None:
        """Run until a signal stops it. Raises CommandFailed if it cannot start."""
        async with self._parts():
            await self._wait_for_api()
            registry = kopf.OperatorRegistry()
            handlers.register(registry, self._mirror)
            background = [
                asyncio.create_task(self._loop.run(), name="planner"),
                asyncio.create_task(self._keep_mirror(), name="mirror"),
            ]
            try:
                await self._watch(registry)
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _parts(self) -> AsyncIterator[None]:
        await self._health.start(self._settings.health_address)
        try:
            yield
        finally:
            await self._health.stop()
            await self._store.close()
            await self._cluster.close()

    async def _wait_for_api(self) -> None:
        """Read everything once; retry until it succeeds: the API server may be away, or resources not installed."""
        complaint = ""
        while True:
            self._loop.turned()
            try:
                version = await self._api.version()
                self._cluster.keys.secret = await own_secret(self._api, *self._settings.agent_secret.split("/"))
                await self._mirror.begin()
                break
            except ClusterFailed as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("waiting for the cluster", error=complaint)
            await asyncio.sleep(AWAY_S)
        log.info("started", kubernetes=".".join(map(str, version)), cascades=len(self._mirror.cascades))
        metrics.API_AVAILABLE.set(1)
        if version < OLDEST_SUPPORTED:
            log.warning("this version of Kubernetes is older than what is supported", oldest="1.30")
        if not self._mirror.sees_nodes:
            log.warning(
                "Nodes may not be read: only classes with a count have replicas started or stopped",
                counted=[c.name for c in self._settings.classes if c.count is not None],
            )

    async def _watch(self, registry: kopf.OperatorRegistry) -> None:
        """Watch for changes until a signal stops it."""
        settings = kopf.OperatorSettings()
        # Kinds and namespaces are known. Otherwise kopf would watch all definitions, and end all of its watches when an
        # API server that has just started says for a moment that it has no definitions (404).
        settings.scanning.disabled = True
        await kopf.operator(
            registry=registry,
            settings=settings,
            # Otherwise kopf would look up the user's name, which a container's user may lack. It has no peers anyway.
            identity=IDENTITY,
            standalone=True,
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
        )

    async def _keep_mirror(self) -> None:
        """Notice when the API server is away; regularly, and when it is back, correct what the watches missed."""
        compared = time.monotonic()
        away = False
        while True:
            await asyncio.sleep(AWAY_S if away else HEARTBEAT_S)
            try:
                if away or time.monotonic() - compared > self._settings.resync_s:
                    await self._mirror.compare()
                    compared = time.monotonic()
                else:
                    await self._api.version()
                if away:
                    log.info("the api server is back")
                    self._loop.wake()
                away = False
            except ClusterFailed:
                away = True
            except Exception:
                log.exception("the mirror could not be compared")
            metrics.API_AVAILABLE.set(self._api.available)

    def _uid_of(self, ref: CascadeRef) -> str:
        document = self._mirror.cascades.get((ref.namespace, ref.name))
        return "" if document is None else document.uid

    def _missing(self) -> str | None:
        if not self._mirror.complete:
            return "the cluster's resources have not been read yet"
        return None


def main() -> None:
    """Entry point; an error that a user can correct is printed in one line, with exit code 2."""
    logs.set_up()
    raise_file_limit()
    try:
        settings, planner = from_environment(OperatorSettings), from_environment(PlannerSettings)
        asyncio.run(Operator(settings, planner).run())
    except CommandFailed as failure:
        sys.stderr.write(f"cascade-operator: {failure}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
