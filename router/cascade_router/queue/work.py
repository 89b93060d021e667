"""What callers of the queue see: entries, grants, the load of a pool, and the ways in which waiting can end badly."""

from __future__ import annotations

from dataclasses import dataclass, field

BANDS = 8
"""Priority bands of an entry: 0 (most urgent) to ``BANDS - 1``."""


@dataclass(frozen=True)
class Entry:
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


@dataclass(frozen=True)
class Grant:
    """The right to have one request in flight on a replica; ends with a release or an exchange."""

    entry: Entry
    replica_id: str
    endpoint: str
    ticket: str = field(default="", repr=False)
    """The queue's own name of this acquisition."""
    sharing: int = field(default=1, repr=False)
    """Requests in flight on the replica when this one was granted, itself included."""


@dataclass(frozen=True)
class PoolLoad:
    """Load of a pool over all routers."""

    waiting: int
    in_flight: int
    expected_wait_s: float
    """Seconds until an entry of average urgency that came now would be granted; inf if nothing serves the pool."""


NOTHING_SERVES = PoolLoad(waiting=0, in_flight=0, expected_wait_s=float("inf"))


class QueueFull(Exception):
    """The pool's queue has reached its bound; ``expected_wait_s`` is a retry hint."""

    def __init__(self, pool: str, waiting: int, expected_wait_s: float) -> None:
        super().__init__(f"queue of pool {pool} is full: {waiting} waiting, expected wait {expected_wait_s:.1f} s")
        self.pool = pool
        self.waiting = waiting
        self.expected_wait_s = expected_wait_s


class NoReplica(Exception):
    """The pool has no ready replica, or lost its last one while the entry was waiting."""

    def __init__(self, pool: str) -> None:
        super().__init__(f"pool {pool} has no ready replica")
        self.pool = pool


class Expired(Exception):
    """The deadline passed while the entry was waiting."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"{entry.id} waited for pool {entry.pool} until its deadline")
        self.entry = entry
