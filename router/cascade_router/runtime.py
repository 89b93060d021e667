"""One cascade as this router serves it: the plan in force and everything that was learnt under it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from cascade_api.names import CascadeRef
from cascade_api.plan import Plan, PlanPool

from . import metrics
from .cascade.choosing import Chooser
from .cascade.decisions import Outlook
from .cascade.estimates import ExecutionEstimates, Recent
from .cascade.retries import RetryBudget
from .pools.clients import TritonClients
from .pools.health import ReplicaHealth
from .prompts.scorers import ScorerError, make_scorer
from .queue import BANDS, Entry, Grant, PoolLoad
from .tally import Tally

log = structlog.get_logger(__name__)


class Queue(Protocol):
    """What the router needs of the queue of one cascade."""

    @property
    def away(self) -> bool: ...
    async def apply(self, plan: Plan) -> None: ...
    async def acquire(self, entry: Entry) -> Grant: ...
    async def exchange(self, grant: Grant, entry: Entry, *, service_s: float) -> Grant: ...
    async def release(self, grant: Grant, *, service_s: float | None, failed: bool = False) -> None: ...
    def turn_away(self, pool: str) -> None: ...
    def load(self, pool: str) -> PoolLoad: ...
    def hold_request(self, key: str) -> AbstractAsyncContextManager[bool]: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Promised:
    """What the plan says of a pool, looked up once rather than for each request."""

    name: str
    variant: str
    ready: frozenset[str]
    execution_s: float

    @classmethod
    def by(cls, pool: PlanPool) -> _Promised:
        ready = frozenset(replica.id for replica in pool.ready)
        return cls(pool.name, pool.variant, ready, pool.batch_execution_s(pool.batch))


class CascadeRuntime:
    """Plan, queue, clients, health and statistics of one cascade.

    Args:
        clock: monotonic seconds.
        start: where even draws begin, in [0, 1).
    """

    def __init__(self, *, ref: CascadeRef, plan: Plan, queue: Queue, clock: Callable[[], float], start: float) -> None:
        self.ref = ref
        self.name = str(ref)
        self.queue = queue
        self.clients = TritonClients()
        self.health = ReplicaHealth()
        self.estimates = ExecutionEstimates()
        self.after_image = Recent()
        """Seconds from an image's arrival until it was sent to the client."""
        self.retries = RetryBudget()
        self.tally = Tally()
        self.clock = clock
        self.plan = plan
        self._promised = {pool.name: _Promised.by(pool) for pool in plan.pools}
        self._scorer: tuple[str, str | None] = ("rules", None)
        self.chooser = Chooser(scorer=make_scorer("rules"), start=start)
        self._changed = asyncio.Event()
        self.parked = 0
        """Requests that wait for a change of plan or health."""

    async def apply(self, plan: Plan) -> None:
        """Follow a plan from now on; requests under way go on by what they drew."""
        self.plan = plan
        self._promised = {pool.name: _Promised.by(pool) for pool in plan.pools}
        self._use_scorer(plan)
        replicas = [replica for pool in plan.pools for replica in pool.replicas]
        self.health.keep({replica.id for replica in replicas})
        self.estimates.keep({pool.name for pool in plan.pools})
        self.clients.keep({replica.endpoint for replica in replicas})
        await self.queue.apply(plan)
        metrics.forget(self.name)  # pools and replicas that are gone
        for replica in replicas:
            metrics.REPLICA_HEALTHY.labels(self.name, replica.id).set(replica.id not in self.health.ejected)
        metrics.PLAN_GENERATION.labels(self.name).set(plan.generation)
        for route, share in plan.planned_shares.items():
            metrics.PLANNED_SHARE.labels(self.name, route).set(share)
        self.notify()

    async def close(self) -> None:
        await self.queue.close()
        await self.clients.close()
        metrics.forget(self.name)

    def outlooks(self, variant: str, *, band: int = BANDS) -> list[Outlook]:
        """What each pool of a variant promises now to a request of priority ``band``."""
        return [self._outlook(pool, band) for pool in self._promised.values() if pool.variant == variant]

    def ready(self, variant: str) -> int:
        """Replicas of a variant that take new work."""
        pools = (pool for pool in self._promised.values() if pool.variant == variant)
        return sum(self._ready(pool, self.queue.load(pool.name)) for pool in pools)

    def execution_s(self, pool: str) -> float:
        """Seconds that a request of a pool takes with 90 % certainty; 0 for a pool that the plan has not."""
        promised = self._promised.get(pool)
        return 0.0 if promised is None else self.estimates.execution_s(pool, planned=promised.execution_s)

    def quickest_s(self) -> float:
        """Seconds without which no image is made."""
        return min((self.execution_s(pool) for pool in self._promised), default=0.0)

    def why_not_ready(self) -> str | None:
        """Why no prompt could be served now; None where one could."""
        if self.plan.parked:
            return "parked, since nobody asked for images"
        for row in self.plan.rows:
            first = row.light if row.direct < 1 else row.heavy
            if self.ready(first):
                return None
        return "no replica is ready"

    def expects_replica(self, variant: str) -> bool:
        """Whether the plan has any replica of a variant, ready or not, or will have some for whoever asks."""
        return self.plan.parked or any(pool.replicas for pool in self.plan.pools_of(variant))

    def replica_failed(self, replica_id: str, why: str) -> None:
        """Eject a replica until a probe brings it back."""
        if self.health.failed(replica_id, now=self.clock()):
            log.warning("replica ejected", cascade=self.name, replica=replica_id, why=why)
            metrics.REPLICA_HEALTHY.labels(self.name, replica_id).set(0)
            for pool in self._promised.values():
                if replica_id in pool.ready and not pool.ready - self.health.ejected:
                    self.queue.turn_away(pool.name)

    def replica_works(self, replica_id: str) -> None:
        if self.health.succeeded(replica_id):
            log.info("replica is back", cascade=self.name, replica=replica_id)
            metrics.REPLICA_HEALTHY.labels(self.name, replica_id).set(1)
            self.notify()

    def notify(self) -> None:
        """Wake whoever waits for a change of plan or health."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for a change of plan or health; False if none came in time."""
        self.parked += 1
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            self.parked -= 1
        return True

    def _outlook(self, pool: _Promised, band: int) -> Outlook:
        load = self.queue.load(pool.name)
        return Outlook(
            pool=pool.name,
            variant=pool.variant,
            ready=self._ready(pool, load),
            waiting=load.waiting,
            expected_wait_s=load.wait_s(band),
            execution_s=self.estimates.execution_s(pool.name, planned=pool.execution_s),
        )

    def _ready(self, pool: _Promised, load: PoolLoad) -> int:
        # A queue that has not heard of the plan yet says inf.
        return len(pool.ready - self.health.ejected) if math.isfinite(load.expected_wait_s) else 0

    def _use_scorer(self, plan: Plan) -> None:
        wanted = (plan.scorer.name, plan.scorer.source)
        if wanted == self._scorer:
            return
        try:
            scorer = make_scorer(*wanted)
        except ScorerError as error:
            log.error("scorer cannot be used; the rules stand in for it", cascade=self.name, why=str(error))
            scorer = make_scorer("rules")
        self._scorer = wanted
        self.chooser.use_scorer(scorer)
