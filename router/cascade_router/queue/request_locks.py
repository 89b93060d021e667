"""Locks for idempotency keys: while one request with a key is served, no router serves another with the same key.

Without Redis this cannot be promised, so no lock is given. A lock that was given before Redis went away stays held, and
is taken again in Redis when it returns.

If another router holds a key, that router may have died, and the client may have sent its request again to this one. So
this router waits. If the other sends a heartbeat in this time, it is alive and keeps the key, and the request is
refused. If it is dead, its lock expires, and this router takes the key and serves the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from .redis_queue import RedisAway, RedisQueue

AGAIN_S: Final = 0.1
"""Pause between two attempts to take a lock that another router holds."""


class RequestLocks:
    """The keys whose requests this router is serving.

    A lock in Redis expires after ``ttl_s`` unless it is renewed, so that a dead router's keys are soon free for a
    retry.
    """

    def __init__(self, *, ttl_s: float, clock: Callable[[], float], shared: Callable[[], RedisQueue | None]) -> None:
        """``shared`` gives Redis, or None while it is away."""
        self._ttl_s = ttl_s
        self._clock = clock
        self._shared = shared
        self._held: dict[str, float] = {}
        """When each key's lock was last taken or renewed."""

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[bool]:
        """Hold a key inside the block; False if a request with that key is already being served.

        If another router holds it, this takes up to the time between two heartbeats, or up to ``ttl_s`` if that router
        died.

        Raises:
            RedisAway: Redis does not answer, so it is not known whether another router holds the key.
        """
        if key in self._held:
            yield False
            return
        self._held[key] = self._clock()
        try:
            yield await self._take(key)
        finally:
            del self._held[key]
            redis = self._shared()
            if redis is not None:
                redis.unlock(key)

    async def _take(self, key: str) -> bool:
        began = self._clock()
        while (redis := self._shared()) is not None:
            silent_s = await redis.lock(key, self._ttl_ms)
            if silent_s is None:
                return True
            waited_s = self._clock() - began
            if silent_s < waited_s or waited_s > 2 * self._ttl_s:
                return False
            await asyncio.sleep(AGAIN_S)
        raise RedisAway("not connected")

    def renew(self, *, all_of_them: bool = False) -> None:
        """Renew in Redis the locks that are older than a third of their time to live, or all of them."""
        redis, now = self._shared(), self._clock()
        if redis is None:
            return
        for key, since in self._held.items():
            if all_of_them or now - since > self._ttl_s / 3:
                redis.relock(key, self._ttl_ms)
                self._held[key] = now

    @property
    def _ttl_ms(self) -> int:
        return int(self._ttl_s * 1000)
