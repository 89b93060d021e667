"""The pools that a dispatcher must know: those of the plan in force, and earlier ones that are not yet empty."""

from __future__ import annotations

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
        self._planned = {pool.name: self._sync(plan, pool) for pool in plan.pools}
        self._retired = {
            name: replace(sync, generation=plan.generation, replicas=())
            for name, sync in known.items()
            if name not in self._planned
        }
        return True

    def _sync(self, plan: Plan, pool: Pool) -> Sync:
        workers = tuple(ReplicaSpec(w.id, w.endpoint, pool.credits(w), pool.image_s) for w in pool.workers)
        return Sync(self._router_id, pool.name, plan.generation, plan.dispatch, workers)

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
