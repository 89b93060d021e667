"""Where a router's operations go: to Redis, to a dispatcher of its own, or, on the way back to Redis, nowhere yet.

A `WorkQueue` is in one mode at a time and hands it every operation by ``submit``. What is particular to a mode happens
in there, so that nobody else has to ask which one it is.
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
"""How long a return waits for the routers last seen."""
COUNT_AGAIN_S: Final = 0.125
"""Pause before it looks again which of them are there."""

Replied = Callable[[OperationResult], None]


class Mode(Protocol):
    """Carries operations out in its own way."""

    @property
    def redis(self) -> RedisQueue | None:
        """Redis, if it knows all that this router has waiting and in flight."""

    @property
    def routers(self) -> tuple[str, ...]:
        """The routers that were alive when Redis was last heard, this one included."""

    def submit(self, operation: Operation, replied: Replied) -> None:
        """Have an operation carried out; ``replied`` gets its outcome, now, later or never."""


class Shared:
    """Every operation goes to Redis.

    This router judges others, by `Reap`, only while its own heartbeats are answered: one that was silent itself may
    have been so because Redis stood still, for all alike.
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
        """Send an operation to Redis; there is no reply if Redis fails."""
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
    """Redis failed, or there is none: the same rules in memory, on this router's equal share of the credits."""

    redis: None = None

    def __init__(
        self, router_id: str, *, routers: tuple[str, ...], timing: QueueTiming, clock: Callable[[], float]
    ) -> None:
        self.routers = routers
        self._router_id = router_id
        self._clock = clock
        self._dispatcher = Dispatcher(timing)

    def submit(self, operation: Operation, replied: Replied) -> None:
        """Carry an operation out now."""
        if isinstance(operation, Sync):
            share = share_of(operation.replicas, router=self._router_id, routers=self.routers)
            operation = replace(operation, replicas=share)
        replied(self._dispatcher.run(operation, now=int(self._clock() * 1000)))


class Returning:
    """Redis answers again, possibly empty, and is told what this router has in flight; nothing is granted meanwhile.

    Only releases are remembered, for Redis to hear afterwards: all else it is told afresh.
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
        """Tell Redis what is in flight and the pools, and wait for the others to have done so, too.

        First, what is none of ours among the keys is removed, since it may be why Redis failed; ``on_bad_data`` gets
        key and reason. The routers last seen are awaited, for `GRACE_S` at most, so that all of them together do not
        overrun the replicas. Raises `RedisAway`.
        """
        for sync in pools.syncs:
            for key, why in await self._returns_to.mend(sync.pool):
                on_bad_data(key, why)
        # A sync introduces this router, and whoever sees it may believe that what it has in flight is counted.
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

    The shares of all ``routers`` add up to the whole, what is left over going round by rank; only a router that would
    be left with nothing in a pool that serves takes one credit all the same, so that no router's clients starve.
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
