"""What callers of the queue see: entries, grants, the load of a pool, and the ways in which waiting can end badly."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

BANDS = 8
"""Priority bands of an entry: 0 (most urgent) to ``BANDS - 1``."""
BANDS_TOLD = 2
"""Bands whose waiting entries a load tells apart from those of all: those more urgent than low priority."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A request that wants a replica of a pool.

    ``id`` is for people (logs, keys); entries may share one, because the queue tells acquisitions apart by itself.
    """

    id: str
    pool: str
    band: int
    """0 (most urgent) to ``BANDS - 1``."""
    deadline: float
    """Seconds on the router's monotonic clock."""

    def __post_init__(self) -> None:
        if not 0 <= self.band < BANDS:
            raise ValueError(f"band must be 0 to {BANDS - 1}, not {self.band}")


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to have one request in flight on a replica; ends with a release or an exchange."""

    entry: QueueEntry
    replica_id: str
    endpoint: str
    ticket: str = field(default="", repr=False)
    """The queue's own name of this acquisition."""
    sharing: int = field(default=1, repr=False)
    """Requests in flight on the replica when this one was granted, itself included."""


class PoolLoad(NamedTuple):
    """Load of a pool over all routers."""

    waiting: int
    in_flight: int
    expected_wait_s: float
    """Seconds until an entry that came now would be granted, after all that wait; inf if nothing serves the pool."""
    ahead: tuple[int, ...] = ()
    """Waiting entries of band 0, of bands 0 to 1, and so on for the first `BANDS_TOLD`."""
    taken: tuple[float, ...] = ()
    """Of the pool's time, what entries of band 0, of bands 0 to 1, and so on take as they come lately."""

    def wait_s(self, band: int) -> float:
        """Expected wait of an entry of ``band``; inf where more urgent ones take all of the pool's time.

        What is as urgent, or more so, is served before it; so is what is more urgent and comes while it waits. With the
        part t of the pool's time that this takes, the wait is that for those who wait already divided by 1 - t.
        """
        if self.waiting == 0:
            return self.expected_wait_s
        ahead = self.ahead[band] if band < len(self.ahead) else self.waiting
        taken = self.taken[min(band, len(self.taken)) - 1] if band and self.taken else 0.0
        return self.expected_wait_s * (ahead + 1) / (self.waiting + 1) / (1 - taken) if taken < 1 else inf


def limit_of(limit: int, *, band: int) -> int:
    """Waiting entries of a pool above which an entry of ``band`` is refused, where ``limit`` holds for band 1.

    Places are held back for the more urgent: band 0 finds a tenth more (at least one), bands from 2 on half as many.
    """
    if band == 0:
        return limit + max(1, limit // 10)
    return limit if band == 1 else max(1, limit // 2)


NOTHING_SERVES = PoolLoad(waiting=0, in_flight=0, expected_wait_s=float("inf"))


class QueueFull(Exception):
    """The pool's queue has reached its bound; ``expected_wait_s`` is a retry hint."""

    def __init__(self, pool: str, waiting: int, expected_wait_s: float) -> None:
        super().__init__(f"queue of pool {pool} is full: {waiting} waiting, expected wait {expected_wait_s:.1f} s")
        self.pool = pool
        self.waiting = waiting
        self.expected_wait_s = expected_wait_s


class NoReadyReplica(Exception):
    """The pool has no ready replica, or lost its last one while the entry was waiting."""

    def __init__(self, pool: str) -> None:
        super().__init__(f"pool {pool} has no ready replica")
        self.pool = pool


class EntryExpired(Exception):
    """The deadline passed while the entry was waiting."""

    def __init__(self, entry: QueueEntry) -> None:
        super().__init__(f"{entry.id} waited for pool {entry.pool} until its deadline")
        self.entry = entry
