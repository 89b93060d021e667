"""The queues of a simulated router: the product's dispatcher, called directly instead of through a network.

Each request has a place (`RequestPlace`): it waits in a pool, and then one of the pool's replicas makes its image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from cascade_api.plan import Plan
from cascade_router.cascade import events
from cascade_router.cascade.decisions import Make
from cascade_router.queue import PoolLoad, limit_of
from cascade_router.queue.dispatch import Dispatcher
from cascade_router.queue.operations import (
    UNIT,
    DropCause,
    EnqueueTicket,
    Operation,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    ReleaseCredit,
    Verdict,
    Withdraw,
    ticket_of,
)
from cascade_router.queue.planned_pools import PlannedPools
from cascade_router.queue.work import NOTHING_SERVES
from cascade_router.requests import BANDS

from .control import EPOCH
from .events import Events
from .shared_workers import SharedWorker

ROUTER: Final = "simulated"
BAND: Final = BANDS["normal"]
TIMING: Final = QueueTiming(lease_ms=10**12, dead_ms=10**12, keep_ms=10**12)
"""Leases and routers never expire: the one router of a simulation does not die."""


class RequestPlace:
    """Where a request is: its present step, its ticket, and the replica that it was granted."""

    __slots__ = ("replica_id", "sharing", "step", "ticket")

    step: Make

    def __init__(self) -> None:
        self.ticket = ""
        self.replica_id = ""
        self.sharing = UNIT


P = TypeVar("P", bound=RequestPlace)


class Pools(Generic[P]):
    """Queues and credits of one router.

    Args:
        limit: most waiting entries of one pool (see `limit_of`).
        tell: is called with each event of the queue that concerns a waiting place.
    """

    def __init__(self, clock: Events, *, limit: int, tell: Callable[[P, events.Event], None]) -> None:
        self._clock = clock
        self._limit = limit_of(limit, band=BAND)
        self._tell = tell
        self._dispatcher = Dispatcher(TIMING)
        self._planned = PlannedPools(ROUTER)
        self._waiting: dict[str, P] = {}
        self._tickets = 0
        self._beat(None)

    def follow(self, plan: Plan) -> None:
        """Make the pools as a plan says."""
        self._planned.follow(plan)
        # A request that one pool drops may enter another one, so all pools follow the plan first.
        for outcome in [self._ask(sync) for sync in self._planned.syncs]:
            self._hear(outcome)

    def load(self, name: str) -> PoolLoad:
        """The load of a pool."""
        pool = self._dispatcher.pools.get(name)
        return NOTHING_SERVES if pool is None else pool.load

    def enter(self, place: P, step: Make, *, work: float = 1.0, leaving: ReleaseCredit | None = None) -> None:
        """Enter the queue of a step's pool with so much work, in images of the default size.

        ``leaving`` gives the previous grant back in the same operation.
        """
        remaining_s = step.start_by - self._clock.now
        if remaining_s <= 0:
            if leaving is not None:
                self._run(leaving)
            self._tell(place, events.Expired())
            return
        self._tickets += 1
        ticket = ticket_of("", f"{self._tickets:09d}", ROUTER, work=work)
        enqueue = EnqueueTicket(ROUTER, step.pool, ticket, BAND, max(int(remaining_s * 1000), 1), self._limit)
        place.step, place.ticket = step, ticket
        self._waiting[ticket] = place
        outcome = self._run(enqueue if leaving is None else ReleaseAndEnqueue(leaving, enqueue))
        if outcome.verdict is Verdict.FULL:
            load = self.load(step.pool)
            self._end(ticket, events.Full(load.waiting, load.wait_s(BAND)))
        elif outcome.verdict is not Verdict.DONE:
            self._end(ticket, events.NoReplica())
        elif ticket in self._waiting:
            self._clock.at(step.start_by, self._expire, ticket)

    def turn_away(self, pool: str) -> None:
        """End every wait for a pool, because none of its replicas is trusted now."""
        for ticket in [ticket for ticket, place in self._waiting.items() if place.step.pool == pool]:
            self._withdraw(ticket, events.NoReplica())

    def release(self, place: RequestPlace, *, service_s: float | None, failed: bool = False) -> ReleaseCredit:
        """The operation that gives a place's grant back."""
        return ReleaseCredit(ROUTER, place.step.pool, place.ticket, place.replica_id, service_s, place.sharing, failed)

    def leave(self, release: ReleaseCredit) -> None:
        """Carry out a release."""
        self._run(release)

    def depths(self) -> Mapping[str, int]:
        """Waiting entries by pool."""
        return {name: len(pool.waiting) for name, pool in self._dispatcher.pools.items()}

    def in_use(self, worker: SharedWorker) -> dict[str, int]:
        """The credits of a worker that are in use, by pool."""
        pools = self._dispatcher.pools.items()
        return {name: pool.replicas[worker.id].used for name, pool in pools if worker.id in pool.replicas}

    def _expire(self, ticket: str) -> None:
        """The request has waited until starting it would be too late."""
        self._withdraw(ticket, events.Expired())

    def _beat(self, _: object) -> None:
        """A heartbeat makes grants that were not possible before, because a failed replica gets none for a while."""
        for name in self._dispatcher.pools:
            self._run(Reap(ROUTER, name))
        self._clock.at(self._clock.now + TIMING.beat_ms / 1000, self._beat)

    def _withdraw(self, ticket: str, event: events.Event) -> None:
        """Take an entry out of its queue, and then report the event: its request may enter another queue at once."""
        place = self._waiting.pop(ticket, None)
        if place is not None:
            self._run(Withdraw(ROUTER, place.step.pool, ticket))
            self._tell(place, event)

    def _end(self, ticket: str, event: events.Event) -> None:
        place = self._waiting.pop(ticket, None)
        if place is not None:
            self._tell(place, event)

    def _run(self, operation: Operation) -> OperationResult:
        outcome = self._ask(operation)
        self._hear(outcome)
        return outcome

    def _ask(self, operation: Operation) -> OperationResult:
        return self._dispatcher.carry_out(operation, now=int((EPOCH + self._clock.now) * 1000))

    def _hear(self, outcome: OperationResult) -> None:
        for grant in outcome.grants:
            place = self._waiting.pop(grant.ticket, None)
            if place is not None:
                place.replica_id, place.sharing = grant.replica_id, grant.sharing
                self._tell(place, events.Granted(grant.replica_id))
        for drop in outcome.drops:
            expired = drop.cause is DropCause.EXPIRED
            self._end(drop.ticket, events.Expired() if expired else events.NoReplica())
