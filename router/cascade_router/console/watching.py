"""Watches the cascades of a router for people: asks Redis what all routers report, and remembers the last hour."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cascade_api import readings
from cascade_api.bad_data import HASH_LIMIT, TEXT_LIMIT, BadData
from cascade_api.console import SAMPLE_S, ConsoleView
from cascade_api.names import CascadeRef
from cascade_api.readings import Reading
from cascade_api.report import RouterReport, demand_per_s

from ..plans import Plans
from ..reporting import make_report
from ..runtime import CascadeRuntime
from . import views
from .views import Seen

log = structlog.get_logger(__name__)

FRESH_S: Final = 0.5
"""People who look within this time of each other see the same; Redis is asked once."""
ROUTER_SEEN_S: Final = 10.0
"""A router that was not seen for longer counts as dead."""
ROUTERS_LIMIT: Final = 1000
_T = TypeVar("_T")


class Watcher:
    """What people see of all cascades.

    Args:
        unix_s: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        plans: Plans,
        router_id: str,
        bad_data: BadData,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._plans = plans
        self._router_id = router_id
        self._bad_data = bad_data
        self._unix_s = unix_s
        self._seen: dict[CascadeRef, Seen] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._away = False

    async def run(self) -> None:
        """Keep samples until cancelled."""
        while True:
            await self._look()
            for runtime in list(self._plans.runtimes):
                self._sample(runtime)
            await asyncio.sleep(SAMPLE_S)

    async def view(self, *, since_ms: int) -> ConsoleView:
        """All cascades now, with the samples and decisions after a moment (Unix milliseconds)."""
        await self._look()
        cascades = [
            views.view(
                name,
                runtime.plan,
                self._seen.get(runtime.ref) or self._alone(runtime),
                runtime.past,
                runtime.queue.load,
                ejected=runtime.state.health.ejected,
                since_ms=since_ms,
            )
            for name, runtime in sorted(self._plans.by_name.items())
        ]
        return ConsoleView(
            at_ms=int(self._unix_s() * 1000), router=self._router_id, store_away=self._away, cascades=cascades
        )

    def _sample(self, runtime: CascadeRuntime) -> None:
        seen = self._seen.get(runtime.ref) or self._alone(runtime)
        at_ms = int(self._unix_s() * 1000)
        runtime.past.sample(
            lambda violations: views.sample(runtime.plan, seen, runtime.queue.load, at_ms=at_ms, violations=violations),
            violations=seen.violations,
        )

    async def _look(self) -> None:
        """Ask Redis about all cascades, unless that was done a moment ago."""
        async with self._looking:
            if time.monotonic() - self._looked_at < FRESH_S:
                return
            runtimes = list(self._plans.runtimes)
            try:
                self._seen = {runtime.ref: await self._ask(runtime) for runtime in runtimes}
                self._away = False
            except (RedisError, OSError) as error:
                log.debug("the console shows what this router knows alone", why=str(error))
                self._seen, self._away = {}, True
            self._looked_at = time.monotonic()

    def _alone(self, runtime: CascadeRuntime) -> Seen:
        """What this router knows by itself."""
        report = make_report(runtime, router_id=self._router_id, at_s=self._unix_s(), store_away=True)
        return Seen(sum(report.recent_routes.values()) / report.recent_window_s, [report], {})

    async def _ask(self, runtime: CascadeRuntime) -> Seen:
        ref, queues = runtime.ref, list(views.queues_of(runtime.plan))
        now = self._unix_s()
        hashes = [ref.demand_key, *map(ref.credits_key, queues)]
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(ref.routers_key, int((now - ROUTER_SEEN_S) * 1000), "+inf", start=0, num=ROUTERS_LIMIT)
            for key in hashes:
                pipe.hlen(key)
            routers, *sizes = await pipe.execute(raise_on_error=False)
        names = self._use(ref.routers_key, readings.names, routers) or []
        small = [key for key, size in zip(hashes, sizes, strict=True) if isinstance(size, int) and size <= HASH_LIMIT]
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in small:
                pipe.hgetall(key)
            for name in names:
                pipe.getrange(ref.scores_key(name), 0, TEXT_LIMIT)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        fields: Mapping[str, Any] = dict(zip(small, replies, strict=False))
        counts = self._use(ref.demand_key, lambda raw: readings.demand(raw, now_s=now), fields.get(ref.demand_key, {}))
        reports: list[RouterReport | None] = [
            self._use(ref.scores_key(name), readings.report, text)
            for name, text in zip(names, replies[len(small) :], strict=True)
        ]
        in_use: dict[str, dict[str, int]] = {}
        for queue, key in zip(queues, hashes[1:], strict=True):
            if key in fields:
                in_use[queue] = self._use(key, readings.in_use, fields[key]) or {}
        return Seen(
            demand=demand_per_s((counts or {}).items(), now=now),
            reports=[report for report in reports if report is not None],
            in_use=in_use,
        )

    def _use(self, key: str, read: Callable[[Any], Reading[_T]], reply: Any) -> _T | None:
        """The value in a reply; what cannot be used is left out, logged and counted."""
        reading = Reading(None, str(reply)) if isinstance(reply, Exception) else read(reply)
        if reading.bad:
            self._bad_data.found(key, reading.bad)
        else:
            self._bad_data.sound(key)
        return reading.value
