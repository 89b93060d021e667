"""The operations on a cascade's queues, and their results, as data. A dispatcher in memory or in Redis carries them
out.

Times are integer milliseconds of the dispatcher's own clock. A *ticket* names one acquisition and ends in
``@<router>``, the id of the router that owns it. Each router process has an id of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from .work import PoolLoad

Ticket = str
TICKET_ID_LENGTH = 64
"""Characters of an entry's id that go into its tickets."""
UNIT: Final = 1000
"""The work of an image of the default size: work is counted in thousandths of it."""
MOST_WORK: Final = 10**7 - 1
"""The work of an entry at most; in a ticket it has seven digits."""
_WORK: Final = re.compile(r"~([0-9]{1,7})@[^@]*\Z")
Spread = Literal["least-wait", "random"]
RANDOM: Final[Spread] = "random"


def ticket_of(entry_id: str, number: int | str, router: str, *, work: float = 1.0) -> Ticket:
    """The ticket of a router's acquisition; ``number`` distinguishes it from the router's others.

    It also says how much ``work`` the image is, in images of the default size, so that whoever has it can count that.
    """
    readable = entry_id[:TICKET_ID_LENGTH].encode(errors="replace").decode()
    return f"{readable}~{number}~{min(max(round(work * UNIT), 1), MOST_WORK)}@{router}"


def work_of(ticket: Ticket) -> int:
    """The work of a ticket's image, in thousandths of an image of the default size."""
    found = _WORK.search(ticket)
    return max(int(found[1]), 1) if found else UNIT


def owner_of(ticket: Ticket) -> str:
    """The id of the router that owns a ticket."""
    return ticket.rpartition("@")[2]


@dataclass(frozen=True)
class QueueTiming:
    """The queue's durations in milliseconds; routers send a heartbeat every ``beat_ms``."""

    beat_ms: int = 1_000
    lease_ms: int = 5_000
    """A grant that is not renewed for this long gives its credit back."""
    dead_ms: int = 5_000
    """A router that is not heard from for this long counts as dead, and its waiting entries are dropped."""
    hold_ms: int = 1_000
    """A replica that failed a request gets no grants for this long: failing fast, it would use up the queue."""
    keep_ms: int = 60_000
    """Keys that no router touches expire after this long."""


@dataclass(frozen=True)
class ReplicaSpec:
    """A replica as the plan describes it; a capacity of 0 means draining."""

    id: str
    endpoint: str
    capacity: int
    service_s: float
    """Seconds per image of the default size by the plan, used until releases have measured it."""


@dataclass(frozen=True)
class Sync:
    """Make a pool as the plan of a generation says; a plan that is older than the pool's changes nothing.

    It also introduces the router to the dispatcher. If no replica is left to serve the pool, all its waiting entries
    are dropped.
    """

    router: str
    pool: str
    generation: int
    spread: Spread
    replicas: tuple[ReplicaSpec, ...]


@dataclass(frozen=True)
class EnqueueTicket:
    """Put a ticket into a pool's queue, unless ``limit`` entries already wait there."""

    router: str
    pool: str
    ticket: Ticket
    band: int
    remaining_ms: int
    """Milliseconds until the deadline."""
    limit: int


@dataclass(frozen=True)
class ReleaseCredit:
    """Give a credit back; nothing happens if the lease has already ended."""

    router: str
    pool: str
    ticket: Ticket
    replica_id: str
    service_s: float | None
    """Seconds that the replica took for the request; None if they say nothing about its speed."""
    sharing: int
    """Work in flight on the replica when the grant was made, this one's included, in thousandths (`UNIT`)."""
    failed: bool = False
    """Whether the replica failed; if so, it gets no grants for ``hold_ms``."""


@dataclass(frozen=True)
class ReleaseAndEnqueue:
    """Release in one pool and enqueue in another of the same cascade, in one step; a refusal leaves it released."""

    release: ReleaseCredit
    enqueue: EnqueueTicket

    @property
    def router(self) -> str:
        return self.enqueue.router


@dataclass(frozen=True)
class Withdraw:
    """Forget a ticket: take it out of the queue, or give its credit back if it has been granted."""

    router: str
    pool: str
    ticket: Ticket


@dataclass(frozen=True)
class Heartbeat:
    """A router says that it is alive, renews its leases, and asks what became of its waiting tickets.

    The answer repeats the grants of waiting tickets that were granted, in case their message was lost. Its ``missing``
    lists the tickets, waiting or in flight, that the dispatcher does not know.
    """

    router: str
    pool: str
    leases: tuple[tuple[Ticket, str], ...]
    """(ticket, replica id) of every grant that the router holds."""
    waiting: tuple[Ticket, ...]


@dataclass(frozen=True)
class Restore:
    """Make the dispatcher count what a router has in flight, even above the capacity; it grants nothing."""

    router: str
    pool: str
    leases: tuple[tuple[Ticket, str], ...]


@dataclass(frozen=True)
class Reap:
    """Give back the credits of expired leases, and drop entries that are past their deadline or of dead routers."""

    router: str
    pool: str


Operation = Sync | EnqueueTicket | ReleaseCredit | ReleaseAndEnqueue | Withdraw | Heartbeat | Restore | Reap


def pools_of(operation: Operation) -> tuple[str, ...]:
    """The pools that an operation touches, in order."""
    if isinstance(operation, ReleaseAndEnqueue):
        return operation.release.pool, operation.enqueue.pool
    return (operation.pool,)


class Verdict(str, Enum):
    """How an operation ended."""

    DONE = "done"
    FULL = "full"
    NO_REPLICA = "no-replica"
    UNKNOWN = "unknown"
    """The dispatcher does not know the pool or the router, for example since it lost its data: send a `Sync`."""


class DropCause(str, Enum):
    """Why a waiting entry was dropped."""

    EXPIRED = "expired"
    NO_REPLICA = "no-replica"
    DEAD_ROUTER = "dead-router"


@dataclass(frozen=True)
class TicketGranted:
    """A ticket got a credit of a replica."""

    pool: str
    ticket: Ticket
    replica_id: str
    endpoint: str
    sharing: int
    """Work in flight on the replica now, this one's included, in thousandths (`UNIT`)."""


@dataclass(frozen=True)
class TicketDropped:
    """A ticket left the queue without a grant."""

    pool: str
    ticket: Ticket
    cause: DropCause


@dataclass(frozen=True)
class OperationResult:
    """The answer to an operation.

    ``grants`` and ``drops`` concern the tickets of the router that asked. Other routers hear of theirs by messages from
    Redis. (`Dispatcher.run` returns all of them, since it has only one caller.)
    """

    verdict: Verdict = Verdict.DONE
    grants: tuple[TicketGranted, ...] = ()
    drops: tuple[TicketDropped, ...] = ()
    loads: Mapping[str, PoolLoad] = field(default_factory=dict)
    missing: tuple[Ticket, ...] = ()
    """Heartbeat only: the tickets that the dispatcher does not know."""
    routers: tuple[str, ...] = ()
    """Heartbeat only: the ids of the routers that are alive, sorted."""
