"""Decides which waiting request gets which replica next.

This is the reference for the Lua scripts, which follow the same rules step by step, and it is the dispatcher itself
while Redis is away. The rules:

* Order: the entries of a pool wait in the order (band, deadline in milliseconds, ticket).
* Credits: a replica with ``capacity`` credits serves at most that many requests at once.
* Grants: whenever something may have changed, the most urgent entry gets a credit of the replica with the least
  expected wait, ``(work in flight + work of the entry) · service_s``; of equal ones, the one with the smaller id. This
  repeats until no entry waits or no credit is free. With ``spread="random"`` any replica with a free credit is chosen,
  by a hash of the ticket.
* Work: an entry says how long its image takes relative to one of the default size; its ticket holds that in
  thousandths. Without sizes each is 1.
* Service time: ``service_s`` is a replica's seconds per unit of work. Each release gives a sample ``service / n``,
  where n is the work that shared the replica (Little's law): the larger of the amounts at grant and at release. The
  samples are smoothed exponentially. For example, an image that took 4 s while 2 of the default size were in flight
  counts as 2 s, and one of four times the work that took 4 s alone as 1 s.
* Draining: a replica that a newer plan drains or leaves out gets no grants. Its credits in use are counted until they
  are released.
* Leases: a grant is a lease. Its router's heartbeats renew it; when that router is gone, it expires.
* Expected wait of a pool: 0 while more credits are free than entries wait; otherwise
  ``(waiting work + (1 - free) · turn) / Σ 1/service_s`` over the replicas that take grants, where a turn is the mean
  work of what waits and is in flight; infinite if there are none. The load also says how many of the waiting entries
  belong to the more urgent bands.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from .operations import (
    RANDOM,
    UNIT,
    DropCause,
    EnqueueTicket,
    Heartbeat,
    Operation,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    Restore,
    Spread,
    Sync,
    Ticket,
    TicketDropped,
    TicketGranted,
    Verdict,
    Withdraw,
    owner_of,
    pools_of,
    work_of,
)
from .work import BANDS_TOLD, PoolLoad

SMOOTHING: Final = 0.2
"""Weight of the newest sample in a replica's service time."""
SHORTEST_SERVICE_S: Final = 1e-6
UNKNOWN_SERVICE_S: Final = 1.0
"""Service time of a replica that is known only from a lease."""

DRAW_START: Final = 7
DRAW_FACTOR: Final = 31
DRAW_MODULUS: Final = 2**31 - 1
"""The hash of a ticket begins with DRAW_START; each byte makes it (hash · DRAW_FACTOR + byte) mod DRAW_MODULUS."""

QueuePlace = tuple[int, int, Ticket]
"""Order of a waiting entry: band, deadline, ticket."""


@dataclass
class ReplicaCredits:
    """A replica of a pool, with its credits; it gets no grants before ``held_until`` (milliseconds)."""

    id: str
    endpoint: str = ""
    capacity: int = 0
    used: int = 0
    load: int = 0
    """Work in flight, in thousandths."""
    service_s: float = UNKNOWN_SERVICE_S
    held_until: int = 0

    def give(self, ticket: Ticket, credits: int = 1) -> None:
        """Count a ticket as in flight; -1: no longer."""
        self.used += credits
        self.load += credits * work_of(ticket)


@dataclass
class Lease:
    """A credit in use, until ``expires`` (milliseconds)."""

    replica_id: str
    expires: int


@dataclass
class PoolQueue:
    """The queue, replicas and leases of one pool."""

    name: str
    generation: int | None = None
    spread: Spread = "least-wait"
    waiting: list[QueuePlace] = field(default_factory=list)
    waiting_work: int = 0
    places: dict[Ticket, QueuePlace] = field(default_factory=dict)
    replicas: dict[str, ReplicaCredits] = field(default_factory=dict)
    leases: dict[Ticket, Lease] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        """Whether any replica takes grants."""
        return any(replica.capacity > 0 for replica in self.replicas.values())

    @property
    def load(self) -> PoolLoad:
        waiting = len(self.waiting)
        free = in_flight = 0
        work = self.waiting_work
        rate = 0.0
        for replica in self.replicas.values():
            in_flight += replica.used
            work += replica.load
            if replica.capacity > 0:
                rate += 1 / replica.service_s
                if replica.used < replica.capacity:
                    free += replica.capacity - replica.used
        if not rate:
            wait_s = float("inf")
        elif waiting < free:
            wait_s = 0.0
        else:
            turn = work / (waiting + in_flight) if waiting + in_flight > 0 else UNIT
            wait_s = max(self.waiting_work + (1 - free) * turn, 0.0) / UNIT / rate
        ahead = tuple(bisect_left(self.waiting, (band + 1,)) for band in range(BANDS_TOLD))
        return PoolLoad(waiting=waiting, in_flight=in_flight, expected_wait_s=wait_s, ahead=ahead)

    def put(self, place: QueuePlace) -> None:
        """Add a waiting entry; if its ticket already waits, it is moved to the new place."""
        self.take(place[2])
        insort(self.waiting, place)
        self.waiting_work += work_of(place[2])
        self.places[place[2]] = place

    def take(self, ticket: Ticket) -> bool:
        """Remove a waiting entry; False if it does not wait."""
        place = self.places.pop(ticket, None)
        if place is None:
            return False
        del self.waiting[bisect_left(self.waiting, place)]
        self.waiting_work -= work_of(ticket)
        return True

    def next_replica(self, ticket: Ticket, now: int) -> ReplicaCredits | None:
        """The replica that a ticket would be sent to; None if no replica has a free credit."""
        free = [r for r in self.replicas.values() if r.used < r.capacity and r.held_until <= now]
        if not free:
            return None
        if self.spread == RANDOM:
            free.sort(key=lambda replica: replica.id)
            return free[draw_of(ticket) % len(free)]
        work = work_of(ticket)
        return min(free, key=lambda replica: ((replica.load + work) * replica.service_s, replica.id))

    def free_credit(self, ticket: Ticket) -> ReplicaCredits | None:
        """End a lease, and return the replica that has its credit back; None if there was no such lease."""
        lease = self.leases.pop(ticket, None)
        if lease is None:
            return None
        replica = self.replicas[lease.replica_id]
        replica.give(ticket, -1)
        return replica


def draw_of(ticket: Ticket) -> int:
    """A number computed from a ticket, the same in Lua and in Python."""
    draw = DRAW_START
    for byte in ticket.encode():
        draw = (draw * DRAW_FACTOR + byte) % DRAW_MODULUS
    return draw


class Dispatcher:
    """The queues of one cascade. Callers use `run` or `carry_out`; times are in milliseconds, and no call waits."""

    def __init__(self, timing: QueueTiming | None = None) -> None:
        self.timing = timing or QueueTiming()
        self.pools: dict[str, PoolQueue] = {}
        self.routers: dict[str, int] = {}
        """When each router was last heard from (milliseconds), by its id."""

    def run(self, operation: Operation, *, now: int) -> OperationResult:
        """`carry_out`, with the loads of the operation's pools afterwards."""
        outcome = self.carry_out(operation, now=now)
        return replace(outcome, loads={name: self.pools[name].load for name in pools_of(operation)})

    def carry_out(self, operation: Operation, *, now: int) -> OperationResult:
        """Carry out one operation at ``now``; the result has the grants and drops of all routers' tickets, in order."""
        match operation:
            case EnqueueTicket():
                return self._enqueue(operation, now)
            case ReleaseCredit():
                return self._release(operation, now)
            case ReleaseAndEnqueue():
                return self._exchange(operation, now)
            case Withdraw():
                return self._withdraw(operation, now)
            case Sync():
                return self._sync(operation, now)
            case Heartbeat():
                return self._heartbeat(operation, now)
            case Restore():
                return self._restore(operation, now)
            case Reap():
                return self._reap(operation, now)

    def _pool(self, name: str) -> PoolQueue:
        pool = self.pools.get(name)
        if pool is None:
            pool = self.pools[name] = PoolQueue(name)
        return pool

    def _alive(self, router: str, now: int) -> bool:
        seen = self.routers.get(router)
        return seen is not None and seen >= now - self.timing.dead_ms

    def _knows(self, router: str, pool: PoolQueue) -> bool:
        return pool.generation is not None and router in self.routers

    def _sync(self, sync: Sync, now: int) -> OperationResult:
        pool = self._pool(sync.pool)
        self.routers.setdefault(sync.router, now)
        if pool.generation is not None and sync.generation < pool.generation:
            return OperationResult()
        pool.generation, pool.spread = sync.generation, sync.spread
        planned = {spec.id: spec for spec in sync.replicas}
        for replica in list(pool.replicas.values()):
            if replica.id not in planned:
                replica.capacity = 0
                if replica.used <= 0:
                    del pool.replicas[replica.id]
        for spec in sync.replicas:
            known = pool.replicas.setdefault(spec.id, ReplicaCredits(spec.id))
            if not known.endpoint:
                known.service_s, known.held_until = spec.service_s, 0
            known.endpoint, known.capacity = spec.endpoint, spec.capacity
        if not pool.serves:
            return OperationResult(drops=_drop(pool, [place[2] for place in pool.waiting], DropCause.NO_REPLICA))
        return self._match(pool, sync.router, now)

    def _enqueue(self, enqueue: EnqueueTicket, now: int) -> OperationResult:
        pool = self._pool(enqueue.pool)
        verdict = self._admit(enqueue, pool, now)
        return self._match(pool, enqueue.router, now) if verdict is Verdict.DONE else OperationResult(verdict=verdict)

    def _admit(self, enqueue: EnqueueTicket, pool: PoolQueue, now: int) -> Verdict:
        if not self._knows(enqueue.router, pool):
            return Verdict.UNKNOWN
        if not pool.serves:
            return Verdict.NO_REPLICA
        if len(pool.waiting) >= enqueue.limit:
            return Verdict.FULL
        pool.put((enqueue.band, now + enqueue.remaining_ms, enqueue.ticket))
        return Verdict.DONE

    def _release(self, release: ReleaseCredit, now: int) -> OperationResult:
        pool = self._pool(release.pool)
        self._give_back(release, pool, now)
        return self._match(pool, release.router, now)

    def _give_back(self, release: ReleaseCredit, pool: PoolQueue, now: int) -> None:
        lease = pool.leases.get(release.ticket)
        if lease is None or lease.replica_id != release.replica_id:
            return
        replica = pool.replicas[release.replica_id]
        if release.failed:
            replica.held_until = now + self.timing.hold_ms
        elif release.service_s is not None:
            work = max(release.sharing, replica.load, work_of(release.ticket))
            sample = max(release.service_s * UNIT / work, SHORTEST_SERVICE_S)
            replica.service_s += SMOOTHING * (sample - replica.service_s)
        pool.free_credit(release.ticket)

    def _exchange(self, exchange: ReleaseAndEnqueue, now: int) -> OperationResult:
        left, entered = self._pool(exchange.release.pool), self._pool(exchange.enqueue.pool)
        self._give_back(exchange.release, left, now)
        first = self._match(left, exchange.router, now)
        verdict = self._admit(exchange.enqueue, entered, now)
        second = self._match(entered, exchange.router, now) if verdict is Verdict.DONE else OperationResult()
        return OperationResult(verdict=verdict, grants=first.grants + second.grants, drops=first.drops + second.drops)

    def _withdraw(self, withdraw: Withdraw, now: int) -> OperationResult:
        pool = self._pool(withdraw.pool)
        if not pool.take(withdraw.ticket):
            pool.free_credit(withdraw.ticket)
        return self._match(pool, withdraw.router, now)

    def _heartbeat(self, beat: Heartbeat, now: int) -> OperationResult:
        pool = self._pool(beat.pool)
        if not self._knows(beat.router, pool):
            return OperationResult(verdict=Verdict.UNKNOWN)
        self.routers[beat.router] = now
        missing: list[Ticket] = []
        for ticket, replica_id in beat.leases:
            lease = pool.leases.get(ticket)
            if lease is None or lease.replica_id != replica_id:
                missing.append(ticket)
            else:
                lease.expires = now + self.timing.lease_ms
        grants: list[TicketGranted] = []
        for ticket in beat.waiting:
            if ticket in pool.places:
                continue
            lease = pool.leases.get(ticket)
            if lease is None:
                missing.append(ticket)
                continue
            lease.expires = now + self.timing.lease_ms
            replica = pool.replicas[lease.replica_id]
            grants.append(TicketGranted(pool.name, ticket, replica.id, replica.endpoint, replica.load))
        routers = tuple(sorted(router for router in self.routers if self._alive(router, now)))
        return OperationResult(grants=tuple(grants), missing=tuple(missing), routers=routers)

    def _restore(self, restore: Restore, now: int) -> OperationResult:
        pool = self._pool(restore.pool)
        for ticket, replica_id in restore.leases:
            pool.take(ticket)
            lease = pool.leases.get(ticket)
            if lease is not None and lease.replica_id != replica_id:
                pool.free_credit(ticket)
                lease = None
            if lease is None:
                pool.replicas.setdefault(replica_id, ReplicaCredits(replica_id)).give(ticket)
            pool.leases[ticket] = Lease(replica_id, now + self.timing.lease_ms)
        return OperationResult()

    def _reap(self, reap: Reap, now: int) -> OperationResult:
        pool = self._pool(reap.pool)
        for ticket in [ticket for ticket, lease in pool.leases.items() if lease.expires <= now]:
            pool.free_credit(ticket)
        late = [ticket for _, deadline, ticket in pool.waiting if deadline <= now]
        drops = _drop(pool, late, DropCause.EXPIRED)
        if not all(self._alive(router, now) for router in self.routers):
            orphans = [place[2] for place in pool.waiting if not self._owned(place[2], reap.router, now)]
            drops += _drop(pool, orphans, DropCause.DEAD_ROUTER)
        forgotten = now - self.timing.keep_ms
        self.routers = {router: seen for router, seen in self.routers.items() if seen >= forgotten}
        matched = self._match(pool, reap.router, now)
        return OperationResult(grants=matched.grants, drops=drops + matched.drops)

    def _owned(self, ticket: Ticket, caller: str, now: int) -> bool:
        owner = owner_of(ticket)
        return owner == caller or self._alive(owner, now)

    def _match(self, pool: PoolQueue, caller: str, now: int) -> OperationResult:
        """Give free credits to the most urgent entries, and drop entries at the head of the queue that nobody wants."""
        grants: list[TicketGranted] = []
        drops: tuple[TicketDropped, ...] = ()
        while pool.waiting:
            _, deadline, ticket = pool.waiting[0]
            replica = pool.next_replica(ticket, now)
            if replica is None:
                break
            if deadline <= now:
                drops += _drop(pool, [ticket], DropCause.EXPIRED)
            elif not self._owned(ticket, caller, now):
                drops += _drop(pool, [ticket], DropCause.DEAD_ROUTER)
            else:
                pool.take(ticket)
                replica.give(ticket)
                pool.leases[ticket] = Lease(replica.id, now + self.timing.lease_ms)
                grants.append(TicketGranted(pool.name, ticket, replica.id, replica.endpoint, replica.load))
        return OperationResult(grants=tuple(grants), drops=drops)


def _drop(pool: PoolQueue, tickets: Iterable[Ticket], cause: DropCause) -> tuple[TicketDropped, ...]:
    dropped = tuple(TicketDropped(pool.name, ticket, cause) for ticket in tickets)
    for drop in dropped:
        pool.take(drop.ticket)
    return dropped
