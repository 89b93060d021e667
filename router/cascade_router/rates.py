"""Limits the rate of each tenant by token buckets in Redis, which all routers share.

In addition to each shared bucket, a router keeps one of its own, at the level that Redis last reported. While Redis is
away or slow, it uses that one. So no request is refused because of Redis, but a tenant then gets its full rate from
each router. Only requests that arrive before the router has noticed must wait, for `ANSWER_S` at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cascade_api.names import rate_key
from cascade_api.redis_refusals import why_refused

log = structlog.get_logger(__name__)

ANSWER_S: Final = 0.5
"""Longest time that a request waits for Redis's answer."""
AGAIN_S: Final = 1.0
"""Pause before Redis is tried again."""
AT_ONCE: Final = 4
"""Most calls to Redis at the same time, so that many requests do not open many connections."""
_FAILURES: Final = (RedisError, OSError)


@dataclass
class Bucket:
    """A token bucket: ``rate_s`` tokens a second up to ``burst``."""

    rate_s: float
    burst: float
    tokens: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now: float, wanted: int = 1) -> float:
        """Take tokens, all or none; returns in how many seconds there will be enough, or 0 if they were taken."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate_s)
        self.at = max(self.at, now)
        if self.tokens >= wanted:
            self.tokens -= wanted
            return 0.0
        return (wanted - self.tokens) / self.rate_s

    def set(self, now: float, tokens: float) -> None:
        """Set the number of tokens at a time, as another bucket or Redis has it."""
        self.tokens, self.at = tokens, now


class SharedRates:
    """The buckets of tenants, shared by all routers of one Redis.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, redis: Redis, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._script = redis.register_script((files(__package__) / "rates.lua").read_text())
        self._under_way = asyncio.Semaphore(AT_ONCE)
        self._alone = False
        """Whether Redis did not answer the last call."""
        self._trying: asyncio.Task[None] | None = None

    async def take(self, tenant: str, own: Bucket, wanted: int) -> float:
        """Take tokens of a tenant, all or none; returns the seconds until there are enough, or 0.

        Args:
            own: this router's bucket of the tenant; it has the rate and the burst.
        """
        if not self._alone:
            try:
                return await self._ask(tenant, own, wanted)
            except _FAILURES as error:
                if not self._alone:
                    problem = why_refused(error) or str(error) or "Redis does not answer in time"
                    log.warning("this router limits the rates of tenants by itself", problem=problem)
                self._alone = True
        if self._trying is None or self._trying.done():
            self._trying = asyncio.ensure_future(self._try_again(tenant, own))
        return own.take(self._clock(), wanted)

    async def _ask(self, tenant: str, own: Bucket, wanted: int) -> float:
        async with asyncio.timeout(ANSWER_S), self._under_way:
            reply: Any = await self._script(keys=[rate_key(tenant)], args=[own.rate_s, own.burst, wanted])
        wait_s, tokens = map(float, reply)
        own.set(self._clock(), tokens)
        return max(0.0, wait_s)

    async def _try_again(self, tenant: str, own: Bucket) -> None:
        await asyncio.sleep(AGAIN_S)
        with suppress(*_FAILURES):
            await self._ask(tenant, own, 0)
            self._alone = False
            log.info("the rates of tenants are shared by all routers again")
