"""What a router knows of one cascade: the plan in force, its limits, and all that was learnt under the plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cascade_api.plan import Plan, PlanWorker, Pool
from cascade_api.report import BatchTime

from ..prompts.scorers import Scorer
from ..queue.work import BANDS, PoolLoad, limit_of
from .choosing import Chooser
from .decisions import Make, Outlook
from .effects import Ejected, Trusted
from .estimates import ExecutionEstimates, LatestBatches, Recent
from .health import ReplicaHealth
from .retries import RetryBudget


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one router takes on."""

    waiting: int
    """Entries that wait for one pool, and requests that wait for a replica to come, see `limit_of`."""
    in_hand: int
    """Requests of all cascades."""


@dataclass(frozen=True, slots=True)
class _Promised:
    """What the plan says of a pool, looked up once rather than for each request."""

    name: str
    queue: str
    variant: str
    ready: frozenset[str]
    execution_s: float

    @classmethod
    def by(cls, pool: Pool) -> _Promised:
        ready = frozenset(replica.id for replica in pool.ready)
        return cls(pool.name, pool.queue, pool.variant, ready, pool.batch_execution_s(pool.batch))


class CascadeState:
    """Everything that the requests of one cascade have in common in one router.

    Args:
        load: the load of a queue by its name.
        start: where even draws begin, in [0, 1).
    """

    def __init__(
        self, plan: Plan, *, load: Callable[[str], PoolLoad], limits: Limits, scorer: Scorer, start: float
    ) -> None:
        self.limits = limits
        self.health = ReplicaHealth()
        self.estimates = ExecutionEstimates()
        self.batches = LatestBatches()
        self.after_image = Recent()
        """Seconds from an image's arrival until it was sent to the client."""
        self.retries = RetryBudget()
        self.chooser = Chooser(scorer=scorer, start=start)
        self.parked = 0
        """Requests that wait for a change of plan or health."""
        self._load = load
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Go by a plan from now on; requests under way go on by what they drew."""
        self.plan = plan
        self._pools = plan.pools
        self._promised = {pool.name: _Promised.by(pool) for pool in self._pools}
        self._names = {(pool.variant, pool.queue): pool.name for pool in self._pools}
        self._of: dict[str, list[_Promised]] = {}
        for pool in self._promised.values():
            self._of.setdefault(pool.variant, []).append(pool)
        self.health.keep({worker.id for worker in plan.workers})
        self.estimates.keep(set(self._promised))
        self.batches.keep(set(self._promised))

    def waiting_limit(self, band: int) -> int:
        """Entries of a pool, or parked requests, above which a request of a priority band does not wait."""
        return limit_of(self.limits.waiting, band=band)

    def outlooks(self, variant: str, *, band: int = BANDS) -> list[Outlook]:
        """What each pool of a variant promises now to a request of priority ``band``."""
        return [self._outlook(pool, band) for pool in self._of.get(variant, ())]

    def ready(self, variant: str) -> int:
        """Replicas of a variant that take new work."""
        return sum(self._ready(pool, self._load(pool.queue)) for pool in self._of.get(variant, ()))

    def pool_of(self, step: Make) -> str:
        """Name of the pool that makes the image of a step."""
        return self._names.get((step.variant, step.pool), step.pool)

    def execution_s(self, pool: str) -> float:
        """Seconds that a request of a pool takes with 90 % certainty; 0 for a pool that the plan has not."""
        promised = self._promised.get(pool)
        return 0.0 if promised is None else self.estimates.execution_s(pool, planned=promised.execution_s)

    def batch_times(self, *, now: float) -> dict[str, BatchTime]:
        """How long the batches of each pool took lately, for the planner."""
        found = {p.name: self.batches.median(p.name, planned_s=p.batch_execution_s, now=now) for p in self._pools}
        return {pool: batch for pool, batch in found.items() if batch is not None}

    def quickest_s(self) -> float:
        """Seconds without which no image is made."""
        return min((self.execution_s(pool) for pool in self._promised), default=0.0)

    def expects_replica(self, variant: str) -> bool:
        """Whether the plan has any replica of a variant, ready or not, or will have some for whoever asks."""
        return self.plan.parked or any(variant in worker.credits for worker in self.plan.workers)

    def why_not_ready(self) -> str | None:
        """Why no prompt could be served now; None where one could."""
        if self.plan.parked:
            return "parked, since nobody asked for images"
        for row in self.plan.rows:
            if self.ready(row.first):
                return None
        return "no replica is ready"

    def failed(self, replica_id: str, why: str, *, now: float) -> Sequence[Ejected]:
        """A replica failed a request or a probe: it is not trusted until it works again. What is new in that."""
        if not self.health.failed(replica_id, now=now):
            return ()
        ejected = self.health.ejected
        emptied = (pool.queue for pool in self._promised.values() if replica_id in pool.ready <= ejected)
        return (Ejected(replica_id, why, tuple(dict.fromkeys(emptied))),)

    def works(self, replica_id: str) -> Sequence[Trusted]:
        """A replica did what it was asked to; what is new in that."""
        return (Trusted(replica_id),) if self.health.succeeded(replica_id) else ()

    def probes(self, *, now: float) -> list[tuple[Pool, PlanWorker]]:
        """Replicas that failed and are to be tried again now, with their pools: those that the plan has take work."""
        due = self.health.due(now=now)
        return [(pool, replica) for pool in self._pools for replica in pool.ready if replica.id in due]

    def _outlook(self, pool: _Promised, band: int) -> Outlook:
        load = self._load(pool.queue)
        return Outlook(
            pool=pool.queue,
            variant=pool.variant,
            ready=self._ready(pool, load),
            waiting=load.waiting,
            expected_wait_s=load.wait_s(band),
            execution_s=self.estimates.execution_s(pool.name, planned=pool.execution_s),
        )

    def _ready(self, pool: _Promised, load: PoolLoad) -> int:
        # A queue that has not heard of the plan yet says inf.
        return len(pool.ready - self.health.ejected) if math.isfinite(load.expected_wait_s) else 0
