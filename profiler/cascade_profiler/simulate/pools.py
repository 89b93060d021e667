"""The pools of a simulated router: the product's dispatcher, what it promises, and whom it trusts.

Requests are Places: they wait in a pool, then have their image made on one of its replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from cascade_api.plan import Plan, PlanPool
from cascade_router.cascade.decisions import Make, Outlook
from cascade_router.cascade.estimates import ExecutionEstimates
from cascade_router.cascade.health import Health
from cascade_router.queue.dispatch import Dispatcher
from cascade_router.queue.operations import (
    Enqueue,
    Exchange,
    Granted,
    Operation,
    Outcome,
    Release,
    ReplicaSpec,
    Sync,
    Verdict,
    Withdraw,
    ticket_of,
)

from .control import EPOCH
from .events import Events
from .workers import Worker

QUEUE_LIMIT: Final = 1000
ROUTER: Final = "simulated"


class Place:
    """Where a request is: the step that it is in, its ticket, and the replica that it was granted."""

    __slots__ = ("granted_s", "replica_id", "sharing", "step", "ticket")

    step: Make

    def __init__(self) -> None:
        self.ticket = ""
        self.replica_id = ""
        self.granted_s = 0.0
        self.sharing = 1


P = TypeVar("P", bound=Place)


class Pools(Generic[P]):
    """Queues, credits and promises of one router.

    Args:
        granted: a place got a credit of its replica.
        refused: a place will not be served by its pool in time, or at all.
    """

    def __init__(self, events: Events, *, granted: Callable[[P], None], refused: Callable[[P], None]) -> None:
        self.health = Health()
        self.estimates = ExecutionEstimates()
        self._events = events
        self._granted = granted
        self._refused = refused
        self._dispatcher = Dispatcher()
        self._waiting: dict[str, P] = {}
        self._tickets = 0
        self._of: dict[str, list[tuple[PlanPool, int, float]]] = {}
        """By variant: its pools in the plan, their ready replicas and planned seconds of a batch."""

    def follow(self, plan: Plan) -> None:
        """Make the pools what a plan says."""
        self.health.keep({replica.id for pool in plan.pools for replica in pool.replicas})
        self.estimates.keep({pool.name for pool in plan.pools})
        self._of = {
            variant: [(pool, len(pool.ready), pool.batch_execution_s(pool.batch)) for pool in plan.pools_of(variant)]
            for variant in {pool.variant for pool in plan.pools}
        }
        gone = sorted(set(self._dispatcher.pools) - {pool.name for pool in plan.pools})
        syncs = [Sync(ROUTER, name, plan.generation, plan.dispatch, ()) for name in gone]
        for pool in plan.pools:
            service_s = pool.batch_execution_s(pool.batch) / pool.batch
            capacity = pool.batch * pool.credit_factor
            specs = tuple(
                ReplicaSpec(r.id, r.endpoint, capacity if r.state == "ready" else 0, service_s) for r in pool.replicas
            )
            syncs.append(Sync(ROUTER, pool.name, plan.generation, plan.dispatch, specs))
        # What a pool drops may enter another one, so all pools follow the plan first.
        for outcome in [self._ask(sync) for sync in syncs]:
            self._hear(outcome)

    def outlooks(self, variant: str) -> list[Outlook]:
        """What each pool of a variant promises now."""
        ejected = self.health.ejected
        outlooks = []
        for pool, ready, planned_s in self._of.get(variant, ()):
            load = self._dispatcher.pools[pool.name].load
            if ejected:
                ready = sum(replica.id not in ejected for replica in pool.ready)
            outlooks.append(
                Outlook(
                    pool=pool.name,
                    variant=variant,
                    ready=ready,
                    waiting=load.waiting,
                    expected_wait_s=load.expected_wait_s,
                    execution_s=self.estimates.execution_s(pool.name, planned=planned_s),
                )
            )
        return outlooks

    def enter(self, place: P, step: Make, *, leaving: Release | None = None) -> None:
        """Queue with the pool of a step, giving the grant before it back in the same operation."""
        self._tickets += 1
        ticket = ticket_of("", self._tickets, ROUTER)
        remaining_ms = max(int((step.start_by - self._events.now) * 1000), 0)
        enqueue = Enqueue(ROUTER, step.pool, ticket, 1, remaining_ms, QUEUE_LIMIT)
        place.step, place.ticket = step, ticket
        self._waiting[ticket] = place
        outcome = self._run(enqueue if leaving is None else Exchange(leaving, enqueue))
        if outcome.verdict is not Verdict.DONE:
            self._waiting.pop(ticket, None)
            self._refused(place)
        elif ticket in self._waiting:
            self._events.at(step.start_by, self._expire, ticket)

    def release(self, place: Place, *, service_s: float | None, failed: bool = False) -> Release:
        """The operation that gives a place's grant back."""
        return Release(ROUTER, place.step.pool, place.ticket, place.replica_id, service_s, place.sharing, failed)

    def leave(self, release: Release) -> None:
        """Carry it out."""
        self._run(release)

    def depths(self) -> Mapping[str, int]:
        """Waiting entries by pool."""
        return {name: len(pool.waiting) for name, pool in self._dispatcher.pools.items()}

    def in_use(self, worker: Worker) -> int:
        """Credits of a replica in use."""
        return sum(
            pool.replicas[worker.id].used for pool in self._dispatcher.pools.values() if worker.id in pool.replicas
        )

    def _expire(self, ticket: str) -> None:
        """The last useful start has passed."""
        place = self._waiting.pop(ticket, None)
        if place is not None:
            self._run(Withdraw(ROUTER, place.step.pool, ticket))
            self._refused(place)

    def _run(self, operation: Operation) -> Outcome:
        outcome = self._ask(operation)
        self._hear(outcome)
        return outcome

    def _ask(self, operation: Operation) -> Outcome:
        return self._dispatcher.carry_out(operation, now=int((EPOCH + self._events.now) * 1000))

    def _hear(self, outcome: Outcome) -> None:
        for grant in outcome.grants:
            self._grant(grant)
        for drop in outcome.drops:
            place = self._waiting.pop(drop.ticket, None)
            if place is not None:
                self._refused(place)

    def _grant(self, grant: Granted) -> None:
        place = self._waiting.pop(grant.ticket, None)
        if place is None:
            return
        place.replica_id, place.sharing, place.granted_s = grant.replica_id, grant.sharing, self._events.now
        self._granted(place)
