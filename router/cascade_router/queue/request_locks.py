"""Locks of idempotency keys: while a request with a key is served, no router serves another one with it.

Without Redis that cannot be promised, so no lock is given. One that was given before Redis went away is held on, and
is taken there again when it returns.

A key that another router holds is waited for while that router may be dead: its lock runs out with its lease, and a
client that tries again elsewhere is served then. A router that is heard of meanwhile is alive, and keeps its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from .redis_queue import RedisAway, RedisQueue

AGAIN_S: Final = 0.1
"""Between two looks at a lock that another router holds."""


class RequestLocks:
    """The keys whose requests this router is serving.

    A lock in Redis lives for ``ttl_s`` and is renewed, so that a dead router's keys are soon free for a retry.
    """

    def __init__(self, *, ttl_s: float, clock: Callable[[], float], shared: Callable[[], RedisQueue | None]) -> None:
        """``shared`` gives Redis, or None while it is away."""
        self._ttl_s = ttl_s
        self._clock = clock
        self._shared = shared
        self._held: dict[str, float] = {}
        """When each was taken or renewed, by key."""

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[bool]:
        """Hold a key inside the block; False if a request with that key is being served already.

        Takes up to a heartbeat to find out where another router holds it, and up to ``ttl_s`` where that one died.

        Raises:
            RedisAway: Redis does not answer, so that nobody knows.
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
        """Renew in Redis what was not taken or renewed for a third of the time to live."""
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
