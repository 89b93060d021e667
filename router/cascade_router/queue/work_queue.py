"""The queue as the rest of the router sees it: shared through Redis, or alone in memory while Redis is away.

What the router has waiting and in flight is kept in this process. So the dispatcher behind it (Redis, or one in memory)
can be lost at any time: the queue tells the next one everything again. `modes` has the three ways in which operations
are carried out. The queue goes

* from *shared* to *alone* when Redis fails: it at once counts in memory what is in flight, and enqueues there what
  waits;
* from *alone* to *returning* when Redis answers again, and then to *shared* when Redis knows what is in flight.

Once a second, a heartbeat renews the leases, finds grants whose messages were lost, tells the dispatcher again what it
does not know, and reaps what dead routers left behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import structlog

from cascade_api.backoff import pause_s
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan

from .acquisitions import NO_LIMIT, Acquisitions, Waiter
from .loads import Loads
from .modes import Alone, Mode, Replied, Returning, Shared
from .operations import (
    DropCause,
    EnqueueTicket,
    Heartbeat,
    Operation,
    OperationResult,
    QueueTiming,
    Reap,
    ReleaseAndEnqueue,
    Restore,
    Ticket,
    TicketDropped,
    TicketGranted,
    Verdict,
    Withdraw,
)
from .planned_pools import PlannedPools
from .redis_queue import RedisAway, RedisQueue, end
from .request_locks import RequestLocks
from .work import EntryExpired, Grant, NoReadyReplica, PoolLoad, QueueEntry, QueueFull, limit_of

logger = structlog.get_logger(__name__)


class WorkQueue:
    """Grants replicas of one cascade to one router's requests, in one order over all routers."""

    def __init__(
        self,
        *,
        url: str | None,
        ref: CascadeRef,
        router_id: str,
        limit: int = 1000,
        timing: QueueTiming | None = None,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        on_bad_data: Callable[[str, str], None] = lambda key, why: None,
    ) -> None:
        """``router_id`` is this process's own; without ``url`` (of Redis) the queue always stays in memory.

        ``limit`` limits the waiting entries of a pool over all routers (see `limit_of`). ``clock`` is the clock of
        `QueueEntry.deadline`. ``on_bad_data`` is called with the key and the reason if data in Redis was not this
        product's and was removed.
        """
        if "@" in router_id or not router_id:
            raise ValueError(f"router_id {router_id!r} must be non-empty and without '@'")
        self._router_id = router_id
        self._limit = limit
        self._timing = timing or QueueTiming()
        self._clock = clock
        self._on_bad_data = on_bad_data
        self._ours = Acquisitions(router_id=router_id, clock=clock, on_expired=self._withdraw)
        self._pools = PlannedPools(router_id)
        self._redis = (
            RedisQueue(
                url=url,
                ref=ref,
                router_id=router_id,
                timing=self._timing,
                timeout_s=timeout_s,
                on_message=self._on_message,
                on_subscribed=self._on_subscribed,
                on_failure=self._go_alone,
            )
            if url
            else None
        )
        self._mode: Mode = Alone(router_id, routers=(router_id,), timing=self._timing, clock=clock)
        self._loads = Loads()
        self._locks = RequestLocks(ttl_s=self._timing.lease_ms / 1000, clock=clock, shared=lambda: self._mode.redis)
        self._nudge = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to Redis, or begin alone if it is away; from then on the queue looks after itself."""
        await self._return()
        if self.away:
            logger.warning("queue.redis_away", reason="not reached at start")
        self._loop_task = asyncio.create_task(self._keep_up(), name="queue-heartbeat")

    async def close(self) -> None:
        """Stop; calls that still wait are cancelled."""
        await end(self._loop_task)
        for waiter in list(self._ours.waiters.values()):
            waiter.future.cancel()
            self._abandon(waiter)
        if self._redis:
            await self._redis.close()

    @property
    def away(self) -> bool:
        """Whether a Redis is configured but is not in use now."""
        return self._redis is not None and self._mode.redis is None

    @property
    def routers(self) -> tuple[str, ...]:
        """The routers that were alive when Redis was last heard, this one included."""
        return self._mode.routers

    async def apply(self, plan: Plan) -> None:
        """Follow a plan; a plan that is older than the one in force is ignored.

        If the plan leaves a pool without a ready replica, the entries that wait there end with `NoReadyReplica`.
        """
        if not self._pools.follow(plan):
            return
        self._sync()
        if self._mode.redis is not None:
            with suppress(RedisAway):
                await self._mode.redis.settle()

    def load(self, pool: str) -> PoolLoad:
        """The load of a pool as last heard, about a second ago at most, plus what was asked for here since; no I/O."""
        return self._loads.of(pool, now=self._clock(), routers=len(self.routers))

    def hold_request(self, key: str) -> AbstractAsyncContextManager[bool]:
        """Hold an idempotency key inside ``async with``; False if a request with it is already being served.

        It takes a round trip to Redis, and raises `RedisAway` if Redis is away.
        """
        return self._locks.hold(key)

    # -- acquiring and releasing ----------------------------------------------------------------------------------

    async def acquire(self, entry: QueueEntry) -> Grant:
        """Wait for a replica of the entry's pool; raises `QueueFull`, `NoReadyReplica` or `EntryExpired`.

        Cancelling the call withdraws the entry. The grant must be released or exchanged.
        """
        waiter = self._expect(entry)
        return await self._wait(waiter, self._ours.enqueue(waiter, limit=limit_of(self._limit, band=entry.band)))

    async def exchange(self, grant: Grant, entry: QueueEntry, *, service_s: float) -> Grant:
        """Release the grant and acquire for the entry, in one step; the grant is released whatever happens."""
        release = self._ours.let_go(grant, service_s=service_s)
        try:
            waiter = self._expect(entry)
        except (NoReadyReplica, EntryExpired):
            if release is not None:
                self._submit(release)
            raise
        enqueue = self._ours.enqueue(waiter, limit=limit_of(self._limit, band=entry.band))
        return await self._wait(waiter, ReleaseAndEnqueue(release, enqueue) if release else enqueue)

    async def release(self, grant: Grant, *, service_s: float | None, failed: bool = False) -> None:
        """Give the credit back; a second release of the same grant does nothing.

        ``service_s`` is the seconds that the replica took; None if they say nothing about its speed, as for a cancelled
        request. ``failed`` means that the replica was at fault and not the request: it gets no grants for a second.
        """
        release = self._ours.let_go(grant, service_s=service_s, failed=failed)
        if release is not None:
            self._submit(release)

    def turn_away(self, pool: str) -> None:
        """End every wait for a pool with `NoReadyReplica`, because this router trusts none of its replicas now."""
        for waiter in [waiter for waiter in self._ours.waiters.values() if waiter.entry.pool == pool]:
            self._ours.fail(waiter.ticket, lambda entry: NoReadyReplica(entry.pool))
            self._withdraw(waiter)

    def _expect(self, entry: QueueEntry) -> Waiter:
        if not self._pools.serves(entry.pool):
            raise NoReadyReplica(entry.pool)
        return self._ours.expect(entry)

    async def _wait(self, waiter: Waiter, operation: EnqueueTicket | ReleaseAndEnqueue) -> Grant:
        pool, ticket = waiter.entry.pool, waiter.ticket
        self._loads.asked(pool, ticket, band=waiter.entry.band, now=self._clock())
        self._submit(operation, partial(self._on_asked, waiter))
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        finally:
            self._loads.replied(pool, ticket)
            waiter.timer.cancel()

    def _abandon(self, waiter: Waiter) -> None:
        """Undo an acquisition whose caller has gone: withdraw it, or release its grant if it has one."""
        if self._ours.waiters.pop(waiter.ticket, None) is not None:
            self._withdraw(waiter)
        elif waiter.ticket in self._ours.held:
            release = self._ours.let_go(self._ours.held[waiter.ticket])
            if release is not None:
                self._submit(release)
        elif waiter.future.done() and not waiter.future.cancelled():
            waiter.future.exception()  # read here, since nobody else does and asyncio would complain

    def _withdraw(self, waiter: Waiter) -> None:
        self._submit(Withdraw(self._router_id, waiter.entry.pool, waiter.ticket))

    # -- what the dispatcher says ---------------------------------------------------------------------------------

    def _submit(self, operation: Operation, then: Replied = lambda outcome: None) -> None:
        """Have an operation carried out; ``then`` is called with the outcome after its grants and drops took effect."""
        self._mode.submit(operation, partial(self._on_replied, self._mode, then))

    def _on_replied(self, asked: Mode, then: Replied, outcome: OperationResult) -> None:
        if asked is not self._mode:
            return  # that mode has ended, and its successor was told everything
        if outcome.verdict is Verdict.UNKNOWN:
            self._go_alone("Redis has lost its data")
            return
        self._loads.heard(outcome.loads)
        for granted in outcome.grants:
            self._on_granted(granted)
        for dropped in outcome.drops:
            self._on_dropped(dropped)
        then(outcome)

    def _on_asked(self, waiter: Waiter, outcome: OperationResult) -> None:
        pool, ticket = waiter.entry.pool, waiter.ticket
        self._loads.replied(pool, ticket)
        if outcome.verdict is Verdict.FULL:
            load = outcome.loads[pool]
            self._ours.fail(ticket, lambda entry: QueueFull(pool, load.waiting, load.wait_s(entry.band)))
        elif outcome.verdict is Verdict.NO_REPLICA:
            self._ours.fail(ticket, lambda entry: NoReadyReplica(pool))

    def _on_granted(self, granted: TicketGranted) -> None:
        unwanted = self._ours.grant(granted)
        if unwanted is not None:
            self._submit(unwanted)

    def _on_dropped(self, dropped: TicketDropped) -> None:
        if dropped.cause is DropCause.EXPIRED:
            self._ours.fail(dropped.ticket, EntryExpired)
        elif dropped.cause is DropCause.NO_REPLICA:
            self._ours.fail(dropped.ticket, lambda entry: NoReadyReplica(entry.pool))
        # If it was dropped since this router seemed dead, the next heartbeat finds it missing and enqueues it again.

    def _on_message(self, message: TicketGranted | TicketDropped) -> None:
        if self.away:
            return
        if isinstance(message, TicketGranted):
            self._on_granted(message)
        else:
            self._on_dropped(message)

    # -- heartbeats -----------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        beat_s, returns, next_try = self._timing.beat_ms / 1000, 1, 0.0
        while True:
            self._beat()
            if not self.away:
                await self._pause(beat_s)
                if not self.away:
                    returns = 1
                continue
            early_s = next_try - self._clock()
            if early_s > 0:
                await self._pause(early_s)
                continue
            if await self._return():
                logger.info("queue.redis_back")
                returns += 1  # if Redis soon fails again, the next pause is longer
            next_try = self._clock() + pause_s(returns)

    async def _pause(self, seconds: float) -> None:
        self._nudge.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._nudge.wait()
        except TimeoutError:
            return

    def _beat(self) -> None:
        self._locks.renew()
        pools = [sync.pool for sync in self._pools.syncs]
        for beat in self._ours.heartbeats(pools):
            self._submit(beat, partial(self._on_beaten, beat))
        for pool in pools:
            self._submit(Reap(self._router_id, pool))

    def _on_beaten(self, beat: Heartbeat, outcome: OperationResult) -> None:
        missing = set(outcome.missing)
        lost = tuple(lease for lease in beat.leases if lease[0] in missing and lease[0] in self._ours.held)
        if lost:
            self._submit(Restore(self._router_id, beat.pool, lost))
        self._enqueue_again(ticket for ticket in beat.waiting if ticket in missing)
        load = outcome.loads[beat.pool]
        if load.in_flight == load.waiting == 0:
            self._pools.emptied(beat.pool)

    def _sync(self) -> None:
        for sync in self._pools.syncs:
            self._submit(sync)

    def _enqueue_again(self, tickets: Iterable[Ticket]) -> None:
        for waiter in self._ours.most_urgent_first(tickets):
            self._submit(self._ours.enqueue(waiter, limit=NO_LIMIT), partial(self._on_asked, waiter))

    def _on_subscribed(self) -> None:
        self._nudge.set()

    # -- leaving Redis and returning to it ------------------------------------------------------------------------

    def _go_alone(self, reason: str) -> None:
        """Leave Redis: at once count in memory what is in flight, and enqueue there what waits."""
        if isinstance(self._mode, Alone):
            return
        logger.warning(
            "queue.redis_away", reason=reason, waiting=len(self._ours.waiters), in_flight=len(self._ours.held)
        )
        self._mode = Alone(self._router_id, routers=self.routers, timing=self._timing, clock=self._clock)
        self._sync()
        for restore in self._ours.restores():
            self._submit(restore)
        self._enqueue_again(list(self._ours.waiters))
        self._nudge.set()

    async def _return(self) -> bool:
        """Go back to Redis if it answers; True if that succeeded."""
        redis = self._redis
        if redis is None:
            return False
        try:
            await redis.open()
            self._mode = returning = Returning(redis, self._router_id, routers=self.routers, clock=self._clock)
            generation = self._pools.generation
            await returning.tell(self._pools, self._ours, self._on_bad_data)
        except RedisAway as error:
            self._go_alone(str(error))
            return False
        self._mode = Shared(redis, routers=self.routers, timing=self._timing, clock=self._clock)
        for release in returning.releases:
            self._submit(release)
        if self._pools.generation != generation:
            self._sync()
        self._beat()
        self._locks.renew(all_of_them=True)
        return True
