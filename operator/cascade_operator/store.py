"""Everything that the operator reads and writes in Redis. Every call has a time limit, and its result says whether
Redis was away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, TypeVar

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from typing_extensions import Self

from cascade_api.bad_data import HASH_LIMIT, TEXT_LIMIT, BadData
from cascade_api.cascade import DiffusionCascade
from cascade_api.failures import CommandFailed
from cascade_api.names import CASCADE_INDEX, CascadeRef, pool_name
from cascade_api.plan import Plan
from cascade_api.redis_refusals import is_wrong_type, why_refused
from cascade_api.report import RouterReport
from cascade_api.settings import NO_REDIS_URL

from . import readings
from .readings import Reading
from .snapshot import Demand

log = structlog.get_logger(__name__)

MEMORY_TTL_S: Final = 24 * 3600
ROUTER_SEEN_S: Final = 10.0
"""A router that was not seen for longer counts as dead, and its report is not read."""
ROUTERS_LIMIT: Final = 1000
"""Most reports that are read."""

T = TypeVar("T")


@dataclass(frozen=True)
class Observation:
    """What Redis has about one cascade at one moment.

    ``plan`` is None if none is published, or if the data there is not a plan. ``listed`` means that the index of plans
    names the cascade, so that routers that start find it. ``in_use`` has the credits in use by pool and worker. Data
    that cannot be used is left out.
    """

    plan: Plan | None
    demand: Demand
    queue_depths: Mapping[str, int]
    in_use: Mapping[str, Mapping[str, int]]
    reports: tuple[RouterReport, ...] = ()
    memory: str | None = field(default=None, repr=False)
    listed: bool = True


class Store:
    """A connection to Redis that does not raise if Redis is away: then reads return None and writes False."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        count_bad: Callable[[str], None] = lambda key: None,
    ) -> None:
        """``count_bad`` is called with the key whenever its data cannot be used; the log names the key once.

        Raises CommandFailed if ``url`` is not the URL of a Redis.
        """
        self._timeout_s = timeout_s
        self._clock = clock
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # One retry, since a pooled connection may be older than Redis's last restart.
                retry=Retry(NoBackoff(), 1),
                retry_on_error=[ConnectionError, redis.exceptions.ConnectionError],
            )
        except ValueError:
            raise CommandFailed(NO_REDIS_URL, code=2) from None
        self._bad_data = BadData(tell=_tell, count=count_bad)
        self._read: dict[CascadeRef, tuple[bytes, Plan]] = {}
        self.available = False
        """Whether the last call succeeded."""
        self.refusal: str | None = None
        """If Redis refused the last call: what is wrong with the user in the URL."""

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
        """The version of the server; None if it is away."""
        info = await self._guard(lambda: self._redis.info("server"))
        return None if info is None else str(info.get("redis_version", "unknown"))

    async def time_s(self) -> float | None:
        """The server's time in Unix seconds; None if it is away."""
        now: Any = await self._guard(self._redis.time)
        return None if now is None else now[0] + now[1] / 1e6

    async def observe(self, ref: CascadeRef, pools: Sequence[str]) -> Observation | None:
        """Everything about one cascade and the named pools; None if Redis is away."""
        return await self._guard(lambda: self._observe(ref, pools))

    async def plan(self, ref: CascadeRef) -> Plan | None:
        """The plan in force; None if there is none, or if Redis is away."""
        found = await self._guard(lambda: self._ask(lambda pipe: pipe.getrange(ref.plan_key, 0, TEXT_LIMIT)))
        return None if found is None else self._plan(ref, found[0])

    async def published(self) -> frozenset[CascadeRef]:
        """Cascades whose plans are published; empty if Redis is away."""
        names: Any = await self._guard(self._published)
        return frozenset(names or ())

    async def publish(self, plan: Plan) -> bool:
        """Put a plan in force for all routers; False if Redis is away."""
        return await self._guard(lambda: self._publish(plan)) is not None

    async def save_memory(self, ref: CascadeRef, memory: str) -> bool:
        """Keep the planner's memory of a cascade; False if Redis is away."""
        return await self._guard(lambda: self._redis.set(ref.memory_key, memory, ex=MEMORY_TTL_S)) is not None

    async def forget(self, ref: CascadeRef) -> bool:
        """Withdraw a cascade, so that routers stop serving it; False if Redis is away."""
        return await self._guard(lambda: self._forget(ref)) is not None

    async def _observe(self, ref: CascadeRef, pools: Sequence[str]) -> Observation:
        hashes = [ref.demand_key, *map(ref.credits_key, pools)]

        def look(pipe: Any) -> None:
            pipe.getrange(ref.plan_key, 0, TEXT_LIMIT)
            pipe.sismember(CASCADE_INDEX, str(ref))
            pipe.getrange(ref.memory_key, 0, TEXT_LIMIT)
            since = int((self._clock() - ROUTER_SEEN_S) * 1000)
            pipe.zrangebyscore(ref.routers_key, since, "+inf", start=0, num=ROUTERS_LIMIT)
            for pool in pools:
                pipe.zcard(ref.queue_key(pool))
            for key in hashes:
                pipe.hlen(key)

        plan, listed, memory, routers, *sizes = await self._ask(look)
        queues, sizes = sizes[: len(pools)], sizes[len(pools) :]
        names = self._use(ref.routers_key, readings.names, routers) or []
        whole = [key for key, size in zip(hashes, sizes, strict=True) if self._is_readable(key, size)]

        def read(pipe: Any) -> None:
            for key in whole:
                pipe.hgetall(key)
            for name in names:
                pipe.getrange(ref.scores_key(name), 0, TEXT_LIMIT)

        replies = await self._ask(read) if whole or names else []
        fields = dict(zip(whole, replies, strict=False))
        used = {
            pool: self._use(key, readings.in_use, fields[key]) or {}
            for pool, key in zip(pools, hashes[1:], strict=True)
            if key in fields
        }
        reports = [
            self._use(ref.scores_key(name), readings.report, text)
            for name, text in zip(names, replies[len(whole) :], strict=True)
        ]
        depths = [
            self._use(ref.queue_key(pool), readings.depth, depth) or 0
            for pool, depth in zip(pools, queues, strict=True)
        ]
        return Observation(
            plan=self._plan(ref, plan),
            demand=self._demand(ref.demand_key, fields),
            queue_depths=dict(zip(pools, depths, strict=True)),
            in_use=used,
            reports=tuple(report for report in reports if report is not None),
            memory=self._use(ref.memory_key, readings.text, memory),
            listed=listed == 1,
        )

    async def _ask(self, commands: Callable[[Any], object]) -> list[Any]:
        """The replies to commands that are sent together; a wrong type of one key is its reply and does not raise."""
        pipe = self._redis.pipeline(transaction=False)
        commands(pipe)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        return replies

    def _use(self, key: str, read: Callable[[Any], Reading[T]], reply: Any) -> T | None:
        """The value that ``read`` finds in a reply; data that cannot be used is left out, logged and counted."""
        reading = Reading(None, str(reply)) if isinstance(reply, Exception) else read(reply)
        if reading.bad:
            self._bad_data.found(key, reading.bad)
        else:
            self._bad_data.sound(key)
        return reading.value

    def _demand(self, key: str, fields: Mapping[str, Any]) -> Demand:
        now_s = self._clock()
        counts = self._use(key, lambda raw: readings.demand(raw, now_s=now_s), fields[key]) if key in fields else None
        return Demand(counts=tuple(sorted((counts or {}).items())))

    def _is_readable(self, key: str, size: int | Exception) -> bool:
        """Whether a hash has fields, and no more than the product's hashes may have."""
        if isinstance(size, Exception):
            self._bad_data.found(key, str(size))
        elif size > HASH_LIMIT:
            self._bad_data.found(key, f"has {size} fields, more than {HASH_LIMIT}")
        elif size:
            return True
        else:
            self._bad_data.sound(key)
        return False

    def _plan(self, ref: CascadeRef, text: bytes | Exception) -> Plan | None:
        """The plan in a text; it is parsed again only if the text changed."""
        known = self._read.pop(ref, None)
        if known is not None and known[0] == text:
            plan: Plan | None = known[1]
        else:
            plan = self._use(ref.plan_key, lambda raw: readings.plan(raw, ref, now_s=self._clock()), text)
        if plan is not None and isinstance(text, bytes):
            self._read[ref] = text, plan
        return plan

    async def _published(self) -> list[CascadeRef]:
        [size] = await self._ask(lambda pipe: pipe.scard(CASCADE_INDEX))
        if isinstance(size, Exception) or size > HASH_LIMIT:
            # Every observation checks the index, so each operator puts its cascades back into it.
            why = str(size) if isinstance(size, Exception) else f"has more than {HASH_LIMIT} members"
            self._bad_data.found(CASCADE_INDEX, f"removed: {why}")
            await self._redis.unlink(CASCADE_INDEX)
            return []
        members: Any = await self._redis.smembers(CASCADE_INDEX)
        found, strangers = readings.cascades(members)
        if strangers:
            self._bad_data.found(CASCADE_INDEX, f"removed what is no cascade's name: {repr(strangers[0])[:80]}")
            await self._redis.srem(CASCADE_INDEX, *strangers)
        else:
            self._bad_data.sound(CASCADE_INDEX)
        return found

    async def _publish(self, plan: Plan) -> bool:
        def commands(pipe: Any) -> None:
            pipe.set(plan.ref.plan_key, plan.to_json())
            pipe.sadd(CASCADE_INDEX, str(plan.ref))
            pipe.publish(plan.ref.plan_channel, plan.generation)

        # If the index has another type, the code that reads it repairs it.
        await self._ask(commands)
        return True

    async def _forget(self, ref: CascadeRef) -> bool:
        def commands(pipe: Any) -> None:
            pipe.srem(CASCADE_INDEX, str(ref))
            pipe.delete(ref.plan_key, ref.memory_key)
            pipe.publish(ref.plan_channel, 0)

        await self._ask(commands)
        return True

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The result of a call, or None if Redis did not answer in time."""
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                result = await call()
        except (RedisError, OSError) as error:
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
    """The names of all pools that a cascade may have."""
    spec = cascade.spec
    return [
        pool_name(variant=variant.name, accelerator_class=name)
        for variant in spec.variants
        for name in spec.classes_of(variant)
    ]


def _tell(key: str, why: str) -> None:
    log.warning("bad data in redis is left out", key=key, why=why)
