"""The pools that a dispatcher must know: those of the plan in force, and earlier ones that are not yet empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cascade_api.plan import Plan, Pool

from .operations import ReplicaSpec, Sync


class PlannedPools:
    """The `Sync` operation for each pool."""

    def __init__(self, router_id: str) -> None:
        self._router_id = router_id
        self.generation = -1
        self._planned: dict[str, Sync] = {}
        self._retired: dict[str, Sync] = {}

    def follow(self, plan: Plan) -> bool:
        """Follow a plan; False if it is older than the one in force."""
        if plan.generation < self.generation:
            return False
        known = self._retired | self._planned
        self.generation = plan.generation
        queues: dict[str, list[Pool]] = {}
        for pool in plan.pools:
            queues.setdefault(pool.queue, []).append(pool)
        self._planned = {name: self._sync(plan, name, pools) for name, pools in queues.items()}
        self._retired = {
            name: replace(sync, generation=plan.generation, replicas=())
            for name, sync in known.items()
            if name not in self._planned
        }
        return True

    def _sync(self, plan: Plan, name: str, pools: Sequence[Pool]) -> Sync:
        """A queue, which several pools may share; a worker then has the credits of the one that gives it most."""
        specs: dict[str, ReplicaSpec] = {}
        for pool in pools:
            for worker in pool.workers:
                known = specs.get(worker.id, ReplicaSpec(worker.id, worker.endpoint, 0, 0.0))
                capacity, service_s = max(known.capacity, pool.credits(worker)), max(known.service_s, pool.image_s)
                specs[worker.id] = ReplicaSpec(worker.id, worker.endpoint, capacity, service_s)
        return Sync(self._router_id, name, plan.generation, plan.dispatch, tuple(specs.values()))

    @property
    def syncs(self) -> list[Sync]:
        """The operations for all pools: those of the plan, then those that it left out."""
        return [*self._planned.values(), *self._retired.values()]

    def serves(self, pool: str) -> bool:
        """Whether the plan has a ready replica in the pool."""
        sync = self._planned.get(pool)
        return sync is not None and any(spec.capacity for spec in sync.replicas)

    def emptied(self, pool: str) -> None:
        """Note that nothing waits or is in flight in the pool, so that it can be forgotten if the plan left it out."""
        self._retired.pop(pool, None)
