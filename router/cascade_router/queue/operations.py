"""The operations on a cascade's queues, as data: what a dispatcher, in memory or in Redis, can be asked, and answers.

Times are integer milliseconds of the dispatcher's own clock. A *ticket* names one acquisition and ends in
``@<router>``, its owner; a router is known by an id that is its own for the life of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from .work import PoolLoad

Ticket = str
TICKET_ID_LENGTH = 64
"""So much of an entry's id goes into its tickets."""
Spread = Literal["least-wait", "random"]
RANDOM: Final[Spread] = "random"


def ticket_of(entry_id: str, number: int | str, router: str) -> Ticket:
    """The ticket of a router's acquisition, told from its others by ``number``."""
    readable = entry_id[:TICKET_ID_LENGTH].encode(errors="replace").decode()
    return f"{readable}~{number}@{router}"


def owner_of(ticket: Ticket) -> str:
    """The router that waits for a ticket."""
    return ticket.rpartition("@")[2]


@dataclass(frozen=True)
class QueueTiming:
    """How long what lasts, in milliseconds; routers send a heartbeat every ``beat_ms``."""

    beat_ms: int = 1_000
    lease_ms: int = 5_000
    """A grant not renewed for so long gives its credit back."""
    dead_ms: int = 5_000
    """A router not heard of for so long has its waiting entries dropped."""
    hold_ms: int = 1_000
    """A replica that failed a request gets no grants for so long, lest it eat the queue by failing fast."""
    keep_ms: int = 60_000
    """Keys that no router touches vanish after so long."""


@dataclass(frozen=True)
class ReplicaSpec:
    """A replica as the plan has it; a capacity of 0 means draining."""

    id: str
    endpoint: str
    capacity: int
    service_s: float
    """Seconds of service per request, believed until releases say better."""


@dataclass(frozen=True)
class Sync:
    """Make a pool what the plan of a generation says; an older plan than the pool's changes nothing.

    Introduces the router to the dispatcher. When no replica is left to serve the pool, all that wait are dropped.
    """

    router: str
    pool: str
    generation: int
    spread: Spread
    replicas: tuple[ReplicaSpec, ...]


@dataclass(frozen=True)
class EnqueueTicket:
    """Put a ticket into a pool's queue, unless ``limit`` are waiting already."""

    router: str
    pool: str
    ticket: Ticket
    band: int
    remaining_ms: int
    """Until the deadline."""
    limit: int


@dataclass(frozen=True)
class ReleaseCredit:
    """Give a credit back; nothing happens if the lease is gone already."""

    router: str
    pool: str
    ticket: Ticket
    replica_id: str
    service_s: float | None
    """Seconds that the replica took for the request; None teaches nothing."""
    sharing: int
    """Requests in flight on the replica when the grant was made, this one included."""
    failed: bool = False
    """The replica failed: it gets no grants for a while."""


@dataclass(frozen=True)
class ReleaseAndEnqueue:
    """Release in one pool and enqueue in another of the same cascade, in one step; a refusal undoes no release."""

    release: ReleaseCredit
    enqueue: EnqueueTicket

    @property
    def router(self) -> str:
        return self.enqueue.router


@dataclass(frozen=True)
class Withdraw:
    """Forget a ticket: take it out of the queue, or give its credit back if it was granted meanwhile."""

    router: str
    pool: str
    ticket: Ticket


@dataclass(frozen=True)
class Heartbeat:
    """A router is alive: renew its leases, and learn what became of its waiting tickets.

    The answer has grants for waiting tickets that were granted (a lost wake-up), and as ``missing`` the tickets of
    either kind that the dispatcher does not know.
    """

    router: str
    pool: str
    leases: tuple[tuple[Ticket, str], ...]
    """(ticket, replica id) of what the router has in flight."""
    waiting: tuple[Ticket, ...]


@dataclass(frozen=True)
class Restore:
    """Count as in flight what a router has in flight, whatever the capacity; grants nothing."""

    router: str
    pool: str
    leases: tuple[tuple[Ticket, str], ...]


@dataclass(frozen=True)
class Reap:
    """Give back the credits of expired leases; drop entries past their deadline and those of dead routers."""

    router: str
    pool: str


Operation = Sync | EnqueueTicket | ReleaseCredit | ReleaseAndEnqueue | Withdraw | Heartbeat | Restore | Reap


def pools_of(operation: Operation) -> tuple[str, ...]:
    """The pools that an operation touches, in the order in which it does."""
    if isinstance(operation, ReleaseAndEnqueue):
        return operation.release.pool, operation.enqueue.pool
    return (operation.pool,)


class Verdict(str, Enum):
    """What became of an operation."""

    DONE = "done"
    FULL = "full"
    NO_REPLICA = "no-replica"
    UNKNOWN = "unknown"
    """The dispatcher knows the pool or the router not (any more): introduce it with `Sync`."""


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
    """Requests in flight on the replica now, this one included."""


@dataclass(frozen=True)
class TicketDropped:
    """A ticket left the queue without a grant."""

    pool: str
    ticket: Ticket
    cause: DropCause


@dataclass(frozen=True)
class OperationResult:
    """The answer to an operation.

    ``grants`` and ``drops`` are those of the asking router's tickets; those of others reach their owners by the
    dispatcher's own way (`Dispatcher.run` puts them in as well: it has one caller).
    """

    verdict: Verdict = Verdict.DONE
    grants: tuple[TicketGranted, ...] = ()
    drops: tuple[TicketDropped, ...] = ()
    loads: Mapping[str, PoolLoad] = field(default_factory=dict)
    missing: tuple[Ticket, ...] = ()
    """Heartbeat only."""
    routers: tuple[str, ...] = ()
    """Heartbeat only: the routers that are alive, in order."""
