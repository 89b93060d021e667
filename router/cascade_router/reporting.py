"""Reports to the planner what this router sees: arrivals per second, within 250 ms, and a full report once a second."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from cascade_api.bad_data import HASH_LIMIT, BadData
from cascade_api.names import CascadeRef
from cascade_api.redis_refusals import is_wrong_type
from cascade_api.report import QUANTILES, RouterReport

from . import metrics
from .runtime import CascadeRuntime

log = structlog.get_logger(__name__)

FLUSH_S: Final = 0.25
REPORT_S: Final = 1.0
REPORT_TTL_S: Final = 10
DEMAND_KEPT_S: Final = 600
_AHEAD_S: Final = 60
"""Seconds by which another router's clock may be ahead."""
_TRIM_S: Final = 60
_PENDING_LIMIT: Final = 120
"""Seconds of arrivals kept while Redis is away."""


class DemandCounter:
    """Arrivals by cascade and Unix second that are not yet in Redis."""

    def __init__(self) -> None:
        self._pending: dict[CascadeRef, Counter[int]] = {}

    def add(self, ref: CascadeRef, *, at_s: float) -> None:
        counts = self._pending.setdefault(ref, Counter())
        counts[int(at_s)] += 1
        if len(counts) > _PENDING_LIMIT:
            del counts[min(counts)]

    def take(self) -> dict[CascadeRef, Counter[int]]:
        """Return everything pending, and forget it here."""
        pending, self._pending = self._pending, {}
        return pending

    def put_back(self, counts: dict[CascadeRef, Counter[int]]) -> None:
        for ref, seconds in counts.items():
            mine = self._pending.setdefault(ref, Counter())
            mine.update(seconds)
            for oldest in sorted(mine)[: max(0, len(mine) - _PENDING_LIMIT)]:
                del mine[oldest]


def make_report(runtime: CascadeRuntime, *, router_id: str, at_s: float, store_away: bool) -> RouterReport:
    """The router's view of one cascade; ``at_s`` is Unix time."""
    routes, median, worst = runtime.tally.recent(now=runtime.clock())
    return RouterReport(
        router=router_id,
        at_ms=int(at_s * 1000),
        plan_generation=runtime.plan.generation,
        received=runtime.tally.received,
        routes=dict(runtime.tally.routes),
        refusals=dict(runtime.tally.refusals),
        waiting=runtime.state.waiting,
        violations=runtime.tally.violations,
        recent_routes=dict(routes),
        latency_p50_s=median,
        latency_p99_s=worst,
        hardness=runtime.state.chooser.hardness_quantiles(QUANTILES),
        confidence=runtime.state.chooser.confidence_quantiles(QUANTILES),
        batch_times=runtime.state.batch_times(now=runtime.clock()),
        made=runtime.state.made_rows.told(),
        recent_tiers=dict(runtime.state.tiers.recent(now=runtime.clock())),
        arrived=runtime.state.arrived.counts(now=runtime.clock()),
        store_away=store_away,
    )


class RouterReporter:
    """Writes demand and reports of all cascades into Redis until cancelled."""

    def __init__(self, *, redis: Redis, router_id: str, demand: DemandCounter, bad_data: BadData) -> None:
        self._redis = redis
        self._router_id = router_id
        self._demand = demand
        self._bad_data = bad_data
        self._trimmed_at = 0.0

    async def run(self, runtimes: Iterable[CascadeRuntime]) -> None:
        """``runtimes`` is a live view of the cascades that the router serves."""
        reported_at = 0.0
        while True:
            now = time.time()
            try:
                await self.flush(now=now)
                if now - reported_at >= REPORT_S or now < reported_at:
                    reported_at = now
                    await self.report(list(runtimes), now=now)
            except (RedisError, OSError) as error:
                log.debug("reporting waits for Redis", why=str(error))
            await asyncio.sleep(FLUSH_S)

    async def flush(self, *, now: float) -> None:
        """Add pending arrivals to the demand of each cascade; on failure they stay pending."""
        counts = self._demand.take()
        if not counts:
            return
        asked = [(ref, second, count) for ref, seconds in counts.items() for second, count in seconds.items()]
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for ref, second, count in asked:
                    pipe.hincrby(ref.demand_key, str(second), count)
                for ref in counts:
                    pipe.expire(ref.demand_key, DEMAND_KEPT_S)
                replies = await pipe.execute(raise_on_error=False)
        except (RedisError, OSError):
            self._demand.put_back(counts)
            raise
        for (ref, second, count), reply in zip(asked, replies, strict=False):
            if isinstance(reply, ResponseError):
                # A failure for one cascade must not affect the others.
                self._bad_data.found(ref.demand_key, f"demand cannot be counted: {reply}")
                await self._mend(ref, second, reply)
                self._demand.put_back({ref: Counter({second: count})})
        if now - self._trimmed_at >= _TRIM_S:
            self._trimmed_at = now
            for ref in counts:
                await self._trim(ref, now=now)

    async def _mend(self, ref: CascadeRef, second: int, error: ResponseError) -> None:
        """Remove data that prevents counting. Only routers write demand, so it is not the product's."""
        if is_wrong_type(error):
            await self._redis.unlink(ref.demand_key)
        elif "not an integer" in str(error) or "overflow" in str(error):
            await self._redis.hdel(ref.demand_key, str(second))

    async def report(self, runtimes: list[CascadeRuntime], *, now: float) -> None:
        """Write one report per cascade, and refresh the gauges that come from the queue."""
        away = any(runtime.queue.away for runtime in runtimes)
        metrics.STORE_AWAY.set(away)
        async with self._redis.pipeline(transaction=False) as pipe:
            for runtime in runtimes:
                for pool in runtime.plan.pools:
                    load = runtime.queue.load(pool.queue)
                    metrics.QUEUE_WAITING.labels(runtime.name, pool.queue).set(load.waiting)
                    metrics.QUEUE_IN_FLIGHT.labels(runtime.name, pool.queue).set(load.in_flight)
                report = make_report(runtime, router_id=self._router_id, at_s=now, store_away=runtime.queue.away)
                text = report.model_dump_json(by_alias=True, exclude_none=True)
                pipe.set(runtime.ref.scores_key(self._router_id), text, ex=REPORT_TTL_S)
            await pipe.execute()

    async def _trim(self, ref: CascadeRef, *, now: float) -> None:
        """Remove seconds that are no longer needed, and fields that are not seconds."""
        try:
            if await self._redis.hlen(ref.demand_key) > HASH_LIMIT:
                self._bad_data.found(ref.demand_key, f"removed: has more than {HASH_LIMIT} fields")
                await self._redis.unlink(ref.demand_key)
                return
            seconds = await self._redis.hkeys(ref.demand_key)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            return  # the next arrivals replace it
        old = [
            second for second in seconds if not second.isdigit() or not -DEMAND_KEPT_S <= int(second) - now <= _AHEAD_S
        ]
        if old:
            await self._redis.hdel(ref.demand_key, *old)
