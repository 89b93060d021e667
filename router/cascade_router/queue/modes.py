"""Where a router's operations go: to Redis, to a dispatcher in its own memory, or nowhere while it returns to Redis.

A `WorkQueue` is in one mode at a time and gives it every operation through ``submit``. Everything that differs between
the modes is in these classes, so that no other code has to ask which mode is in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from .acquisitions import Acquisitions
from .dispatch import Dispatcher
from .operations import (
    Heartbeat,
    Operation,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    ReplicaSpec,
    Sync,
    Verdict,
)
from .planned_pools import PlannedPools
from .redis_queue import RedisQueue

GRACE_S: Final = 1.5
"""How long a router that returns to Redis waits for the others that it last saw there."""
COUNT_AGAIN_S: Final = 0.125
"""Pause before it looks again which routers have returned."""

Replied = Callable[[OperationResult], None]


class Mode(Protocol):
    """One way to carry out operations."""

    @property
    def redis(self) -> RedisQueue | None:
        """Redis, if it knows everything that this router has waiting and in flight; else None."""

    @property
    def routers(self) -> tuple[str, ...]:
        """The routers that were alive when Redis was last heard, this one included."""

    def submit(self, operation: Operation, replied: Replied) -> None:
        """Have an operation carried out; ``replied`` is called with the outcome now, later or never."""


class Shared:
    """Every operation goes to Redis.

    This router reaps what others left behind (`Reap`) only while its own heartbeats are answered. If they are not,
    Redis may have stood still, and then the other routers are silent for the same reason and not dead.
    """

    def __init__(
        self, redis: RedisQueue, *, routers: tuple[str, ...], timing: QueueTiming, clock: Callable[[], float]
    ) -> None:
        self.redis = redis
        self.routers = routers
        self._clock = clock
        self._silence_s = 2 * timing.beat_ms / 1000
        self._beaten_at = float("-inf")

    def submit(self, operation: Operation, replied: Replied) -> None:
        """Send an operation to Redis; ``replied`` is never called if Redis fails."""
        if isinstance(operation, Reap) and self._clock() - self._beaten_at >= self._silence_s:
            return
        if isinstance(operation, Heartbeat):
            self.redis.submit(operation, lambda outcome: self._on_beaten(outcome, replied))
        else:
            self.redis.submit(operation, replied)

    def _on_beaten(self, outcome: OperationResult, replied: Replied) -> None:
        if outcome.verdict is Verdict.DONE:
            self._beaten_at = self._clock()
            self.routers = outcome.routers
        replied(outcome)


class Alone:
    """Redis failed, or there is none: the same rules run in memory, with this router's equal share of the credits."""

    redis: None = None

    def __init__(
        self, router_id: str, *, routers: tuple[str, ...], timing: QueueTiming, clock: Callable[[], float]
    ) -> None:
        self.routers = routers
        self._router_id = router_id
        self._clock = clock
        self._dispatcher = Dispatcher(timing)

    def submit(self, operation: Operation, replied: Replied) -> None:
        """Carry out an operation now."""
        if isinstance(operation, Sync):
            share = share_of(operation.replicas, router=self._router_id, routers=self.routers)
            operation = replace(operation, replicas=share)
        replied(self._dispatcher.run(operation, now=int(self._clock() * 1000)))


class Returning:
    """Redis answers again, but may be empty. The router tells it what it has in flight; until then nothing is granted.

    Releases are remembered and sent to Redis afterwards. Other operations need not be: Redis is then told everything
    anew.
    """

    redis: None = None

    def __init__(
        self, redis: RedisQueue, router_id: str, *, routers: tuple[str, ...], clock: Callable[[], float]
    ) -> None:
        self.routers = routers
        self.releases: list[ReleaseCredit] = []
        self._returns_to = redis
        self._router_id = router_id
        self._clock = clock

    def submit(self, operation: Operation, replied: Replied) -> None:
        """Remember a release; there are no replies."""
        if isinstance(operation, ReleaseCredit):
            self.releases.append(operation)
        elif isinstance(operation, ReleaseAndEnqueue):
            self.releases.append(operation.release)

    async def tell(self, pools: PlannedPools, ours: Acquisitions, on_bad_data: Callable[[str, str], None]) -> None:
        """Tell Redis the pools and what is in flight, and wait until the other routers have done the same.

        First, data in the pools' keys that is not this product's is removed, since it may be why Redis failed;
        ``on_bad_data`` is called with each key and the reason. The wait for the routers that were last seen, `GRACE_S`
        at most, prevents Redis from granting credits that another router still uses. Raises `RedisAway`.
        """
        for sync in pools.syncs:
            for key, why in await self._returns_to.mend(sync.pool):
                on_bad_data(key, why)
        # The syncs come last. They introduce this router, and then others rely on its work in flight being counted.
        known: list[Operation] = [*ours.restores(), *pools.syncs]
        for operation in known:
            await self._returns_to.run(operation)
        others = set(self.routers) - {self._router_id}
        if others and pools.syncs:
            await self._await(others, pools.syncs[0].pool)

    async def _await(self, others: set[str], pool: str) -> None:
        patience = self._clock() + GRACE_S
        while True:
            outcome = await self._returns_to.run(Heartbeat(self._router_id, pool, (), ()))
            if others <= set(outcome.routers) or self._clock() > patience:
                return
            await asyncio.sleep(COUNT_AGAIN_S)


def share_of(replicas: Sequence[ReplicaSpec], *, router: str, routers: Sequence[str]) -> tuple[ReplicaSpec, ...]:
    """One router's equal share of every replica's capacity.

    The shares of all ``routers`` add up to the whole; credits that cannot be divided are given out by rank. For
    example, of one replica with 5 credits, 2 routers get 3 and 2. There is one exception: a router that would get no
    credit in a pool that serves takes one nevertheless, so that its clients are served.
    """
    ranked = sorted({*routers, router})
    rank, parts = ranked.index(router), len(ranked)
    shares: list[ReplicaSpec] = []
    given = 0
    for replica in replicas:
        whole, rest = divmod(replica.capacity, parts)
        mine = (rank - given) % parts < rest
        given += rest
        shares.append(replace(replica, capacity=whole + mine))
    serving = [index for index, replica in enumerate(replicas) if replica.capacity > 0]
    if serving and not any(share.capacity for share in shares):
        lucky = serving[rank % len(serving)]
        shares[lucky] = replace(shares[lucky], capacity=1)
    return tuple(shares)
