"""All that the operator reads and writes in Redis; every call is bounded in time, and says so when Redis is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, TypeVar

import redis.asyncio
import structlog
from pydantic import ValidationError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from typing_extensions import Self

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CASCADE_INDEX, CascadeRef, pool_name
from cascade_api.plan import Plan
from cascade_api.redis_refusals import why_refused
from cascade_api.report import RouterReport

from .snapshot import Demand

log = structlog.get_logger(__name__)

MEMORY_TTL_S: Final = 24 * 3600
ROUTER_SEEN_S: Final = 10.0
"""A router not seen for longer is dead; its report is not read."""

T = TypeVar("T")


@dataclass(frozen=True)
class Observation:
    """What Redis knew of one cascade at one instant.

    ``plan`` is None where none is published (or what is there is no plan); ``in_use`` counts credits by replica id.
    """

    plan: Plan | None
    demand: Demand
    queue_depths: Mapping[str, int]
    in_use: Mapping[str, int]
    reports: tuple[RouterReport, ...] = ()
    memory: str | None = field(default=None, repr=False)


class Store:
    """A connection to Redis that never raises for its absence: reads give None and writes give False."""

    def __init__(self, url: str, *, timeout_s: float = 1.0, clock: Callable[[], float] = time.time) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # One more try: a pooled connection may be from before a restart.
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[ConnectionError, redis.exceptions.ConnectionError],
        )
        self._read: dict[CascadeRef, tuple[bytes, Plan | None]] = {}
        self.available = False
        """Whether the last call got through."""
        self.refusal: str | None = None
        """What is wrong with the user in the URL, where Redis refused the last call."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._redis.aclose()

    async def ping(self) -> bool:
        """Whether Redis answers."""
        return await self._guard(self._redis.ping) is not None

    async def version(self) -> str | None:
        """Version of the server."""
        info = await self._guard(lambda: self._redis.info("server"))
        return None if info is None else str(info.get("redis_version", "unknown"))

    async def time_s(self) -> float | None:
        """The server's clock, in Unix seconds; None when it is away."""
        now: Any = await self._guard(self._redis.time)
        return None if now is None else now[0] + now[1] / 1e6

    async def observe(self, ref: CascadeRef, pools: Sequence[str]) -> Observation | None:
        """Everything about one cascade and the named pools; None when Redis is away."""
        return await self._guard(lambda: self._observe(ref, pools))

    async def plan(self, ref: CascadeRef) -> Plan | None:
        """The plan in force; None where there is none, or Redis is away."""
        text: Any = await self._guard(lambda: self._redis.get(ref.plan_key))
        return _plan(text)

    async def published(self) -> frozenset[CascadeRef]:
        """Cascades whose plans are published; none when Redis is away."""
        names: Any = await self._guard(self._published)
        return frozenset(names or ())

    async def publish(self, plan: Plan) -> bool:
        """Put a plan in force for all routers; False when Redis is away."""
        return await self._guard(lambda: self._publish(plan)) is not None

    async def save_memory(self, ref: CascadeRef, memory: str) -> bool:
        """Keep the planner's memory of a cascade; False when Redis is away."""
        return await self._guard(lambda: self._redis.set(ref.memory_key, memory, ex=MEMORY_TTL_S)) is not None

    async def forget(self, ref: CascadeRef) -> bool:
        """Withdraw a cascade: routers stop serving it; False when Redis is away."""
        return await self._guard(lambda: self._forget(ref)) is not None

    async def _observe(self, ref: CascadeRef, pools: Sequence[str]) -> Observation:
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(ref.plan_key)
        pipe.hgetall(ref.demand_key)
        pipe.get(ref.memory_key)
        pipe.zrangebyscore(ref.routers_key, int((self._clock() - ROUTER_SEEN_S) * 1000), "+inf")
        for pool in pools:
            pipe.zcard(ref.queue_key(pool))
            pipe.hgetall(ref.credits_key(pool))
        plan, demand, memory, routers, *by_pool = await pipe.execute()
        reports = await self._redis.mget([ref.scores_key(r.decode()) for r in routers]) if routers else []
        return Observation(
            plan=self._plan(ref, plan),
            demand=_demand(demand),
            queue_depths=dict(zip(pools, by_pool[::2], strict=True)),
            in_use=_in_use(by_pool[1::2]),
            reports=tuple(report for report in map(_report, reports) if report is not None),
            memory=memory.decode() if memory else None,
        )

    def _plan(self, ref: CascadeRef, text: bytes | None) -> Plan | None:
        """A plan, read anew only when its text changed."""
        if not text:
            self._read.pop(ref, None)
            return None
        known = self._read.get(ref)
        if known is None or known[0] != text:
            known = self._read[ref] = text, _plan(text)
        return known[1]

    async def _published(self) -> list[CascadeRef]:
        found = []
        names: Any = await self._redis.smembers(CASCADE_INDEX)
        for name in names:
            try:
                found.append(CascadeRef.parse(name.decode()))
            except ValueError:
                log.warning("ignored a cascade in redis that has no name", name=name)
        return found

    async def _publish(self, plan: Plan) -> bool:
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(plan.ref.plan_key, plan.to_json())
        pipe.sadd(CASCADE_INDEX, str(plan.ref))
        pipe.publish(plan.ref.plan_channel, plan.generation)
        await pipe.execute()
        return True

    async def _forget(self, ref: CascadeRef) -> bool:
        pipe = self._redis.pipeline(transaction=False)
        pipe.srem(CASCADE_INDEX, str(ref))
        pipe.delete(ref.plan_key, ref.memory_key)
        pipe.publish(ref.plan_channel, 0)
        await pipe.execute()
        return True

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The result of a call, or None when Redis did not give one in time."""
        try:
            result = await asyncio.wait_for(call(), 2 * self._timeout_s)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            known, self.refusal = self.refusal, why_refused(error)
            if self.refusal is not None and self.refusal != known:
                log.warning("redis refuses", why=self.refusal)
            elif self.refusal is None and self.available:
                log.warning("redis is away", error=str(error) or type(error).__name__)
            self.available = False
            return None
        self.available, self.refusal = True, None
        return result


def pools_of(cascade: DiffusionCascade) -> list[str]:
    """Names of all pools that a cascade may have."""
    spec = cascade.spec
    return [
        pool_name(variant=variant.name, accelerator_class=name)
        for variant in spec.variants
        for name in variant.classes
        if spec.capacity.accelerators.get(name, 0)
    ]


def _plan(text: bytes | None) -> Plan | None:
    if not text:
        return None
    try:
        return Plan.from_json(text)
    except ValidationError as error:
        log.warning("ignored a plan in redis that cannot be read", error=str(error))
        return None


def _demand(counts: Mapping[bytes, bytes]) -> Demand:
    return Demand(counts=tuple(sorted((int(second), int(count)) for second, count in counts.items())))


def _in_use(credits: Sequence[Mapping[bytes, bytes]]) -> dict[str, int]:
    """Credits in use by replica: the fields ``u:<id>`` of every pool's hash."""
    used: dict[str, int] = {}
    for pool in credits:
        for key, value in pool.items():
            kind, _, replica = key.decode().partition(":")
            if kind == "u":
                used[replica] = used.get(replica, 0) + int(float(value))
    return used


def _report(text: Any) -> RouterReport | None:
    if not text:
        return None
    try:
        return RouterReport.model_validate_json(text)
    except ValidationError:
        return None
