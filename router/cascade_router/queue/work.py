"""What callers of the queue see: entries, grants, the load of a pool, and the exceptions that end a wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

BANDS = 8
"""Priority bands of an entry: 0 (most urgent) to ``BANDS - 1``."""
BANDS_TOLD = 2
"""For this many of the most urgent bands, a load says how many entries wait; they are those above low priority."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A request that wants a replica of a pool.

    ``id`` is for people, in logs and keys. Several entries may have the same id: the queue gives each a ticket.
    """

    id: str
    pool: str
    band: int
    """0 (most urgent) to ``BANDS - 1``."""
    deadline: float
    """Seconds on the router's monotonic clock."""
    work: float = 1.0
    """The time that its image takes, relative to an image of the default size."""

    def __post_init__(self) -> None:
        if not 0 <= self.band < BANDS:
            raise ValueError(f"band must be 0 to {BANDS - 1}, not {self.band}")


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to have one request in flight on a replica; it ends with a release or an exchange."""

    entry: QueueEntry
    replica_id: str
    endpoint: str
    ticket: str = field(default="", repr=False)
    """The queue's own name for this acquisition."""
    sharing: int = field(default=1, repr=False)
    """Work in flight on the replica when this one was granted, including its own; see `operations.UNIT`."""


class PoolLoad(NamedTuple):
    """The load of a pool over all routers."""

    waiting: int
    in_flight: int
    expected_wait_s: float
    """Seconds until a new entry behind all waiting ones would get its grant; infinite if nothing serves the pool."""
    ahead: tuple[int, ...] = ()
    """Waiting entries of band 0, of bands 0 to 1, and so on for the first `BANDS_TOLD`."""
    taken: tuple[float, ...] = ()
    """The part of the pool's time that new entries of band 0, of bands 0 to 1, and so on take at their recent rate."""

    def wait_s(self, band: int) -> float:
        """Expected wait of a new entry of ``band`` in seconds; infinite if more urgent ones take all the pool's time.

        Two groups are served before it: entries that already wait and are at least as urgent (``ahead``), and entries
        that arrive while it waits and are more urgent. If the latter take the part t of the pool's time, then

            wait = expected_wait_s · (ahead + 1) / (waiting + 1) / (1 - t)
        """
        if self.waiting == 0:
            return self.expected_wait_s
        ahead = self.ahead[band] if band < len(self.ahead) else self.waiting
        taken = self.taken[min(band, len(self.taken)) - 1] if band and self.taken else 0.0
        return self.expected_wait_s * (ahead + 1) / (self.waiting + 1) / (1 - taken) if taken < 1 else inf


def limit_of(limit: int, *, band: int) -> int:
    """Waiting entries of a pool at which an entry of ``band`` is refused; ``limit`` is the value for band 1.

    Places are reserved for more urgent entries: for band 0 the limit is a tenth higher (at least one place), for bands
    from 2 on it is half as high.
    """
    if band == 0:
        return limit + max(1, limit // 10)
    return limit if band == 1 else max(1, limit // 2)


NOTHING_SERVES = PoolLoad(waiting=0, in_flight=0, expected_wait_s=float("inf"))


class QueueFull(Exception):
    """The pool's queue has reached its limit; ``expected_wait_s`` tells the client when to try again."""

    def __init__(self, pool: str, waiting: int, expected_wait_s: float) -> None:
        super().__init__(f"queue of pool {pool} is full: {waiting} waiting, expected wait {expected_wait_s:.1f} s")
        self.pool = pool
        self.waiting = waiting
        self.expected_wait_s = expected_wait_s


class NoReadyReplica(Exception):
    """The pool has no ready replica, or lost its last one while the entry waited."""

    def __init__(self, pool: str) -> None:
        super().__init__(f"pool {pool} has no ready replica")
        self.pool = pool


class EntryExpired(Exception):
    """The deadline passed while the entry waited."""

    def __init__(self, entry: QueueEntry) -> None:
        super().__init__(f"{entry.id} waited for pool {entry.pool} until its deadline")
        self.entry = entry
