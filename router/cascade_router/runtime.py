"""One cascade as this router serves it: its state, with its queue, Triton clients and statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan

from . import metrics
from .cascade.effects import Ejected, Trusted
from .cascade.state import CascadeState, Limits
from .pools.clients import TritonClients
from .prompts.scorers import ScorerError, make_scorer
from .queue import Grant, PoolLoad, QueueEntry
from .tally import Tally

log = structlog.get_logger(__name__)


class Queue(Protocol):
    """What the router needs from the queue of one cascade."""

    @property
    def away(self) -> bool: ...
    async def apply(self, plan: Plan) -> None: ...
    async def acquire(self, entry: QueueEntry) -> Grant: ...
    async def exchange(self, grant: Grant, entry: QueueEntry, *, service_s: float) -> Grant: ...
    async def release(self, grant: Grant, *, service_s: float | None, failed: bool = False) -> None: ...
    def turn_away(self, pool: str) -> None: ...
    def load(self, pool: str) -> PoolLoad: ...
    def hold_request(self, key: str) -> AbstractAsyncContextManager[bool]: ...
    async def close(self) -> None: ...


class CascadeRuntime:
    """State, queue, clients and statistics of one cascade.

    Args:
        clock: monotonic seconds.
        start: where evenly spaced draws begin, in [0, 1).
    """

    def __init__(
        self,
        *,
        ref: CascadeRef,
        plan: Plan,
        queue: Queue,
        limits: Limits,
        clock: Callable[[], float],
        start: float,
    ) -> None:
        self.ref = ref
        self.name = str(ref)
        self.queue = queue
        self.clients = TritonClients()
        self.tally = Tally()
        self.clock = clock
        self._scorer: tuple[str, str | None] = ("rules", None)
        self.state = CascadeState(plan, load=queue.load, limits=limits, scorer=make_scorer("rules"), start=start)
        self._changed = asyncio.Event()

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self.state.plan

    async def apply(self, plan: Plan) -> None:
        """Follow a plan from now on; requests under way continue with the rows that were drawn for them."""
        self.state.follow(plan)
        self._use_scorer(plan)
        replicas = plan.workers
        self.clients.keep({replica.endpoint for replica in replicas})
        await self.queue.apply(plan)
        metrics.forget(self.name)  # pools and replicas that are gone
        for replica in replicas:
            metrics.REPLICA_HEALTHY.labels(self.name, replica.id).set(replica.id not in self.state.health.ejected)
        metrics.PLAN_GENERATION.labels(self.name).set(plan.generation)
        for route, share in plan.planned_shares.items():
            metrics.PLANNED_SHARE.labels(self.name, route).set(share)
        self.notify()

    async def close(self) -> None:
        await self.queue.close()
        await self.clients.close()
        metrics.forget(self.name)

    def note(self, news: Iterable[Ejected | Trusted]) -> None:
        """Act on changes of health: report them, end useless waits, and wake requests that wait for a change."""
        for each in news:
            metrics.REPLICA_HEALTHY.labels(self.name, each.replica_id).set(isinstance(each, Trusted))
            match each:
                case Ejected():
                    log.warning("replica ejected", cascade=self.name, replica=each.replica_id, why=each.why)
                    for pool in each.emptied:
                        self.queue.turn_away(pool)
                case Trusted():
                    log.info("replica is back", cascade=self.name, replica=each.replica_id)
                    self.notify()

    def notify(self) -> None:
        """Wake all requests that wait for a change of plan or health."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for a change of plan or health; False if there was none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _use_scorer(self, plan: Plan) -> None:
        wanted = (plan.scorer.name, plan.scorer.source)
        if wanted == self._scorer:
            return
        try:
            scorer = make_scorer(*wanted)
        except ScorerError as error:
            log.error("the scorer cannot be used; the scorer `rules` replaces it", cascade=self.name, why=str(error))
            scorer = make_scorer("rules")
        self._scorer = wanted
        self.state.chooser.use_scorer(scorer)
