"""The dispatcher of one router alone: the same rules in memory, on this router's share of the credits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .dispatch import Dispatcher
from .operations import Operation, Outcome, ReplicaSpec, Timing


class MemoryQueue:
    """A `Dispatcher` on a clock in seconds."""

    def __init__(self, timing: Timing, clock: Callable[[], float] = time.monotonic) -> None:
        self._dispatcher = Dispatcher(timing)
        self._clock = clock

    def run(self, operation: Operation) -> Outcome:
        """Carry out an operation now."""
        return self._dispatcher.run(operation, now=int(self._clock() * 1000))


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
