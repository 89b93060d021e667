"""What a router knows about one cascade: the plan in force, its limits, and everything that it has learnt.

All requests of the cascade share this state. It learns the scores of prompts and images, how long requests take, which
replicas fail, and how many requests wait for a change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cascade_api.plan import Plan, PlanCrowd, PlanRow, PlanWorker, Pool
from cascade_api.report import BatchTime

from ..prompts.scorers import Scorer
from ..queue.work import BANDS, PoolLoad, limit_of
from .choosing import Chooser, Wish
from .counts import MadeRows, RecentTiers
from .decisions import Make, Outlook, best
from .effects import Ejected, Trusted
from .estimates import ArrivedSizes, ExecutionEstimates, LatestBatches, Recent
from .health import ReplicaHealth
from .retries import RetryBudget


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests one router accepts."""

    waiting: int
    """Most entries that wait for one pool, and most requests that wait for a replica to appear (see `limit_of`)."""
    in_hand: int
    """Most requests of all cascades together."""


@dataclass(frozen=True, slots=True)
class _Promised:
    """What the plan says about a pool, computed once and not for each request."""

    name: str
    queue: str
    variant: str
    ready: frozenset[str]
    execution_s: float
    image_s: float
    credits: int
    crowd: PlanCrowd | None
    work: Callable[[str], float]

    @classmethod
    def by(cls, pool: Pool) -> _Promised:
        return cls(
            name=pool.name,
            queue=pool.queue,
            variant=pool.variant,
            ready=frozenset(replica.id for replica in pool.ready),
            execution_s=pool.batch_execution_s(pool.batch),
            image_s=pool.image_s,
            credits=sum(map(pool.credits, pool.ready)),
            crowd=pool.crowd,
            work=pool.work,
        )

    def after_s(self, ahead: int, load: PoolLoad, size: str) -> float:
        """How much longer an image waits behind ``ahead`` others of its size that are not in the queue yet.

        As many as there are free credits begin at once. The others take their turns at the pool's rate. The load's
        expected wait contains one turn, unless there are free credits.
        """
        free = max(0, self.credits - load.in_flight - load.waiting)
        turns = ahead if free == 0 else max(0, ahead + 1 - free)
        return turns * self.image_s * self.work(size) / max(1, len(self.ready))

    def wait_s(self, wait_s: float) -> float:
        """The seconds that a request waits, if ``wait_s`` is what it waits for the workers that are ready now.

        Where the plan says that more would come for a crowd, the queue is divided among those.
        """
        if self.crowd is None or len(self.ready) >= self.crowd.workers:
            return wait_s
        return min(wait_s, self.crowd.after_s + wait_s * len(self.ready) / self.crowd.workers)


class CascadeState:
    """Everything that the requests of one cascade share in one router.

    Args:
        plan: the plan in force.
        load: gives the load of a queue by its name.
        limits: how many requests the router accepts.
        scorer: computes the hardness of prompts.
        start: where evenly spaced draws begin, in [0, 1).
    """

    def __init__(
        self, plan: Plan, *, load: Callable[[str], PoolLoad], limits: Limits, scorer: Scorer, start: float
    ) -> None:
        self.limits = limits
        self.health = ReplicaHealth()
        self.estimates = ExecutionEstimates()
        self.batches = LatestBatches()
        self.arrived = ArrivedSizes()
        self.after_image = Recent()
        """Seconds from the arrival of an image from its replica until it was sent to the client."""
        self.retries = RetryBudget()
        self.made_rows = MadeRows()
        self.tiers = RecentTiers()
        self.chooser = Chooser(scorer=scorer, start=start)
        self.waiting = 0
        """Requests that wait for a change of plan or health."""
        self._load = load
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Follow a plan from now on; requests under way continue with the rows that were drawn for them."""
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
        """Entries of a pool, or waiting requests, at which a request of this priority band does not wait."""
        return limit_of(self.limits.waiting, band=band)

    def outlooks(self, variant: str, *, band: int = BANDS, ahead: int = 0, size: str = "") -> list[Outlook]:
        """What a request of priority ``band`` can expect from each pool of a variant now for an image of a size, if
        ``ahead`` images that are not in the queue yet go before it.
        """
        return [self._outlook(pool, band, ahead, size) for pool in self._of.get(variant, ())]

    def ready(self, variant: str) -> int:
        """Replicas of a variant that take new work."""
        return sum(self._ready(pool, self._load(pool.queue)) for pool in self._of.get(variant, ()))

    def pool_of(self, step: Make) -> str:
        """Name of the pool that makes the image of a step."""
        return self._names.get((step.variant, step.pool), step.pool)

    def work(self, pool: str, size: str) -> float:
        """The time that an image of a size takes in a pool, relative to one of the default size."""
        promised = self._promised.get(pool)
        return 1.0 if promised is None else promised.work(size)

    def execution_s(self, pool: str, size: str = "") -> float:
        """Seconds that 90 % of a pool's images of a size do not exceed; 0 for a pool that the plan does not have."""
        promised = self._promised.get(pool)
        if promised is None:
            return 0.0
        return self.estimates.execution_s(pool, planned=promised.execution_s) * promised.work(size)

    def made(self, pool: str, size: str, service_s: float, batch: BatchTime | None, *, now: float) -> None:
        """Learn from an image of a size that took ``service_s`` in a pool; times are kept as of the default size."""
        work = self.work(pool, size)
        self.estimates.observe(pool, service_s / work)
        if batch is not None:
            self.batches.observe(pool, batch.model_copy(update={"seconds": batch.seconds / work}), now=now)

    def batch_times(self, *, now: float) -> dict[str, BatchTime]:
        """The median of each pool's latest batches, for the planner; pools without enough batches are left out."""
        found = {p.name: self.batches.median(p.name, planned_s=p.batch_execution_s, now=now) for p in self._pools}
        return {pool: batch for pool, batch in found.items() if batch is not None}

    def work_s(self, wish: Wish, size: str = "") -> float:
        """The accelerator-seconds that an image of a size is expected to take, by the plan or the client's tier."""
        tier = self.plan.tiers.get(wish.tier) if wish.tier != "auto" else None
        rows = self.plan.rows if tier is None else [tier]
        parts = ((row.share * part, name) for row in rows for name, part in _stages(row).items())
        seconds = {name: [pool.image_s * pool.work(size) for pool in pools] for name, pools in self._of.items()}
        return sum(part * min(seconds.get(name, ()), default=0.0) for part, name in parts)

    def congestion(self) -> tuple[float, float]:
        """The longest expected wait for a variant of the plan's rows, and the longest execution time of these (s).

        Variants without a ready replica do not count.
        """
        found = (best(self.outlooks(name), now=0.0) for row in self.plan.rows for name in row.chain)
        pools = [outlook for outlook in found if outlook is not None]
        waits_s = max((outlook.expected_wait_s for outlook in pools), default=0.0)
        return waits_s, max((outlook.execution_s for outlook in pools), default=0.0)

    def quickest_s(self, size: str = "") -> float:
        """Seconds that the quickest pool needs for an image of a size."""
        return min((self.execution_s(pool, size) for pool in self._promised), default=0.0)

    def expects_replica(self, variant: str) -> bool:
        """Whether the plan has a replica of a variant, ready or not, or is parked and will have one after a request."""
        return self.plan.expects_worker(variant)

    def why_not_ready(self) -> str | None:
        """Why no prompt can be served now; None if one can."""
        if self.plan.parked:
            return "parked, since nobody asked for images"
        for row in self.plan.rows:
            if self.ready(row.first):
                return None
        return "no replica is ready"

    def failed(self, replica_id: str, why: str, *, now: float) -> Sequence[Ejected]:
        """Note that a replica failed a request or a probe, so that it is not trusted until it works again.

        Returns the effect if the replica was trusted until now.
        """
        if not self.health.failed(replica_id, now=now):
            return ()
        ejected = self.health.ejected
        emptied = (pool.queue for pool in self._promised.values() if replica_id in pool.ready <= ejected)
        return (Ejected(replica_id, why, tuple(dict.fromkeys(emptied))),)

    def works(self, replica_id: str) -> Sequence[Trusted]:
        """Note that a replica did its work; returns the effect if it was not trusted until now."""
        return (Trusted(replica_id),) if self.health.succeeded(replica_id) else ()

    def probes(self, *, now: float) -> list[tuple[Pool, PlanWorker]]:
        """Failed replicas that must be probed now, with their pools; only those that are ready in the plan."""
        due = self.health.due(now=now)
        return [(pool, replica) for pool in self._pools for replica in pool.ready if replica.id in due]

    def _outlook(self, pool: _Promised, band: int, ahead: int, size: str) -> Outlook:
        load = self._load(pool.queue)
        return Outlook(
            pool=pool.queue,
            variant=pool.variant,
            ready=self._ready(pool, load),
            waiting=load.waiting,
            expected_wait_s=pool.wait_s(load.wait_s(band) + pool.after_s(ahead, load, size)),
            execution_s=self.execution_s(pool.name, size),
        )

    def _ready(self, pool: _Promised, load: PoolLoad) -> int:
        # The expected wait is infinite while the queue does not know the plan yet.
        return len(pool.ready - self.health.ejected) if math.isfinite(load.expected_wait_s) else 0


def _stages(row: PlanRow) -> dict[str, float]:
    """How many images of each variant a request of a row takes on average."""
    if row.alone:
        return {row.heavy: 1.0}
    return {row.light: 1 - row.direct, row.heavy: row.heavy_share}
