"""What one router has waiting and in flight, by ticket.

This state lives in the router's process. So if a dispatcher loses its data (for example, Redis restarts empty), the
router can tell it, or another one, again.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from .operations import EnqueueTicket, Heartbeat, ReleaseCredit, Restore, Ticket, TicketGranted, ticket_of
from .work import EntryExpired, Grant, QueueEntry

HEARTBEAT_CHUNK: Final = 500
"""Most leases, and most waiting tickets, in one heartbeat: a longer script call would block Redis for others."""
NO_LIMIT: Final = 2**31
"""The limit for entries that are enqueued again: they were admitted before, so they are not refused now."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """An acquisition that waits for its grant."""

    entry: QueueEntry
    ticket: Ticket
    future: asyncio.Future[Grant]
    timer: asyncio.TimerHandle


class Acquisitions:
    """The waiting entries and held grants of one router."""

    def __init__(self, *, router_id: str, clock: Callable[[], float], on_expired: Callable[[Waiter], None]) -> None:
        """``on_expired`` is called with each waiter whose deadline passed, after its caller has got `EntryExpired`."""
        self._router_id = router_id
        self._clock = clock
        self._on_expired = on_expired
        self._numbers = itertools.count()
        """Of tickets, in nine digits: of entries that are alike in all else, the first comes first."""
        self._life = secrets.token_hex(3)
        """Distinguishes the tickets of this process from those of an earlier one with the same router id."""
        self.waiters: dict[Ticket, Waiter] = {}
        self.held: dict[Ticket, Grant] = {}

    def expect(self, entry: QueueEntry) -> Waiter:
        """Begin to wait; raises `EntryExpired` if the deadline has already passed."""
        remaining_s = entry.deadline - self._clock()
        if remaining_s <= 0:
            raise EntryExpired(entry)
        ticket = ticket_of(entry.id, f"{self._life}{next(self._numbers):09d}", self._router_id, work=entry.work)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(remaining_s, self._expire, ticket)
        waiter = self.waiters[ticket] = Waiter(entry, ticket, loop.create_future(), timer)
        return waiter

    def enqueue(self, waiter: Waiter, *, limit: int) -> EnqueueTicket:
        """The operation that puts a waiter into its pool's queue, with the time that is left until its deadline."""
        entry = waiter.entry
        remaining_ms = max(int((entry.deadline - self._clock()) * 1000), 1)
        return EnqueueTicket(self._router_id, entry.pool, waiter.ticket, entry.band, remaining_ms, limit)

    def grant(self, granted: TicketGranted) -> ReleaseCredit | None:
        """Hand a grant to its waiter; if nobody waits for it any more, return the release that gives it back."""
        waiter = self.waiters.pop(granted.ticket, None)
        if waiter is not None and not waiter.future.done():
            grant = Grant(waiter.entry, granted.replica_id, granted.endpoint, granted.ticket, granted.sharing)
            self.held[granted.ticket] = grant
            waiter.future.set_result(grant)
            return None
        held = self.held.get(granted.ticket)
        if held is not None and held.replica_id == granted.replica_id:
            return None  # the dispatcher has said it twice
        return ReleaseCredit(self._router_id, granted.pool, granted.ticket, granted.replica_id, None, granted.sharing)

    def fail(self, ticket: Ticket, error: Callable[[QueueEntry], Exception]) -> Waiter | None:
        """End a waiter with an exception, and return it; None if it no longer waits."""
        waiter = self.waiters.pop(ticket, None)
        if waiter is not None and not waiter.future.done():
            waiter.future.set_exception(error(waiter.entry))
        return waiter

    def let_go(self, grant: Grant, *, service_s: float | None = None, failed: bool = False) -> ReleaseCredit | None:
        """Stop holding a grant, and return the release that gives it back; None if it was not held."""
        if self.held.pop(grant.ticket, None) is None:
            return None
        pool, ticket, replica_id = grant.entry.pool, grant.ticket, grant.replica_id
        return ReleaseCredit(self._router_id, pool, ticket, replica_id, service_s, grant.sharing, failed)

    def heartbeats(self, pools: Iterable[str]) -> Iterator[Heartbeat]:
        """Heartbeats with everything that is held and everything that waits; at least one for each pool."""
        leases = self._leases()
        waiting: dict[str, list[Ticket]] = defaultdict(list)
        for ticket, waiter in self.waiters.items():
            waiting[waiter.entry.pool].append(ticket)
        for pool in pools:
            for start in range(0, max(len(leases[pool]), len(waiting[pool]), 1), HEARTBEAT_CHUNK):
                part = slice(start, start + HEARTBEAT_CHUNK)
                yield Heartbeat(self._router_id, pool, tuple(leases[pool][part]), tuple(waiting[pool][part]))

    def restores(self) -> list[Restore]:
        """Operations that make a dispatcher count what this router holds."""
        return [Restore(self._router_id, pool, tuple(leases)) for pool, leases in self._leases().items()]

    def _leases(self) -> dict[str, list[tuple[Ticket, str]]]:
        """(ticket, replica id) of every held grant, by pool."""
        leases: dict[str, list[tuple[Ticket, str]]] = defaultdict(list)
        for ticket, grant in self.held.items():
            leases[grant.entry.pool].append((ticket, grant.replica_id))
        return leases

    def most_urgent_first(self, tickets: Iterable[Ticket]) -> list[Waiter]:
        """The waiters of those tickets that still wait, in the order in which they should be enqueued again."""
        waiters = [self.waiters[ticket] for ticket in tickets if ticket in self.waiters]
        return sorted(waiters, key=lambda waiter: (waiter.entry.band, waiter.entry.deadline))

    def _expire(self, ticket: Ticket) -> None:
        waiter = self.fail(ticket, EntryExpired)
        if waiter is not None:
            self._on_expired(waiter)
