"""The planner's loop: collect the state of all cascades, decide, act. It repeats at the time that the decision names,
or when it is woken.

The loop survives all failures. An exception is logged, and the last plan stays in force. Plans are kept here, too: if
Redis was away or came back empty, they are published again. Whatever the cluster or Redis did not accept is offered
again at the next tick.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import structlog

from cascade_api.cascade import DiffusionCascade
from cascade_api.names import CascadeRef, pool_name
from cascade_api.plan import Plan, is_credible, next_generation
from cascade_api.status import CascadeStatus, WorkerPoolStatus

from .clusters import Cluster, ClusterFailed
from .planning.memory import CascadeMemory, Memory
from .planning.planner import Decision
from .refusals import status_of_refused
from .snapshot import CascadeView, Move, PoolRef, PoolView, Publish, SetStatus, Snapshot, StartWorker, Worker
from .sources import PoolSubject, Refused, Source, Subject
from .store import Observation, Store, pools_of

log = structlog.get_logger(__name__)

SHORTEST_TICK_S: Final = 0.1
"""The loop rests at least this long between two decisions, however often it is woken."""
AFTER_FAILURE_S: Final = 1.0


class Decide(Protocol):
    """The planner, as the loop calls it."""

    def __call__(self, snapshot: Snapshot, memory: Memory, now: float) -> Decision: ...


class Reporter(Protocol):
    """Receives what the loop does, and reports it to people and machines."""

    async def status(self, ref: CascadeRef, status: CascadeStatus) -> bool:
        """Write a status to the place where it is read; False if that failed and must be tried again."""

    async def pool_status(self, ref: PoolRef, status: WorkerPoolStatus) -> bool:
        """The same for a WorkerPool."""

    def plan(self, plan: Plan) -> None:
        """A plan was put in force."""

    def decided(self, snapshot: Snapshot, decision: Decision, took_s: float) -> None:
        """A decision was made, in ``took_s`` seconds."""

    def failed(self, error: Exception) -> None:
        """A tick failed; the last plan stays in force."""

    def gone(self, ref: CascadeRef) -> None:
        """A cascade was deleted and withdrawn."""


class Loop:
    """One operator's loop over the cascades of a source."""

    def __init__(
        self,
        source: Source,
        *,
        cluster: Cluster,
        store: Store,
        decide: Decide,
        reporter: Reporter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` is Unix time."""
        self._source = source
        self._cluster = cluster
        self._store = store
        self._decide = decide
        self._reporter = reporter
        self._clock = clock
        self._memory = Memory()
        self._recalled: set[CascadeRef] = set()
        self._plans: dict[CascadeRef, Plan] = {}
        self._statuses: dict[CascadeRef, CascadeStatus] = {}
        self._pool_statuses: dict[tuple[PoolRef, str], WorkerPoolStatus] = {}
        """The last statuses of WorkerPools, by name and uid: one that is made again has none yet."""
        self.turned_s = time.monotonic()
        """When the last turn ended, by the monotonic clock. If it is long ago, the loop hangs."""
        self._woken = asyncio.Event()
        self._solver = ThreadPoolExecutor(max_workers=1, thread_name_prefix="planner")

    def wake(self) -> None:
        """Decide soon: something changed."""
        self._woken.set()

    def turned(self) -> None:
        """Note that a turn ended; code that makes the loop wait on purpose calls this as well."""
        self.turned_s = time.monotonic()

    def plan(self, ref: CascadeRef) -> Plan | None:
        """The plan in force."""
        return self._plans.get(ref)

    def status(self, ref: CascadeRef) -> CascadeStatus | None:
        """The last status of a cascade."""
        return self._statuses.get(ref)

    async def run(self) -> None:
        """Run one tick after another until cancelled."""
        try:
            while True:
                self._woken.clear()
                next_at = await self._turn()
                self.turned()
                await asyncio.sleep(SHORTEST_TICK_S)
                await self._rest(next_at)
        finally:
            self._solver.shutdown(wait=False, cancel_futures=True)

    async def _rest(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _turn(self) -> float:
        """One tick; a failure is logged. Returns the time of the next tick."""
        try:
            return await self.tick()
        except Exception as error:
            log.exception("a tick failed; the last plan holds")
            self._reporter.failed(error)
            return self._clock() + AFTER_FAILURE_S

    async def tick(self) -> float:
        """Collect, decide and act once; returns the time of the next tick."""
        found = await self._source.subjects()
        if found is None:
            return self._clock() + AFTER_FAILURE_S
        subjects = [each for each in found if isinstance(each, Subject)]
        refused = [each for each in found if isinstance(each, Refused)]
        await self._forget_gone({each.cascade.ref for each in subjects} | {each.ref for each in refused})
        await self._cluster.reconcile(subjects, self._source.pools())
        snapshot = await self._collect(subjects)
        now, began = self._clock(), time.monotonic()
        deciding = asyncio.get_running_loop().run_in_executor(self._solver, self._decide, snapshot, self._memory, now)
        await self._reconcile_until(deciding)
        decision = await deciding
        self._reporter.decided(snapshot, decision, time.monotonic() - began)
        await self._act(decision, snapshot)
        await asyncio.gather(*(self._tell_refused(each) for each in refused), self._report_pools(decision))
        await self._remember(decision.memory)
        for diagnosis in decision.diagnostics:
            log.debug("decided", cascade=str(diagnosis.cascade), reason=diagnosis.reason, **diagnosis.figures())
        return decision.next_at

    async def _reconcile_until(self, deciding: asyncio.Future[Decision]) -> None:
        """While a long decision is made, let changed specs take effect; another decision then follows it."""
        woken = False
        while not deciding.done():
            waking = asyncio.ensure_future(self._woken.wait())
            first: list[asyncio.Future[Any]] = [deciding, waking]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            if deciding.done():
                break
            woken = True
            self._woken.clear()
            found = await self._source.subjects()
            subjects = [each for each in found or () if isinstance(each, Subject)]
            await self._cluster.reconcile(subjects, self._source.pools())
        if woken:
            self._woken.set()

    async def _collect(self, subjects: Sequence[Subject]) -> Snapshot:
        observations = await asyncio.gather(
            *(self._store.observe(each.cascade.ref, pools_of(each.cascade)) for each in subjects)
        )
        inventory = await self._cluster.inventory()
        views = []
        for subject, seen in zip(subjects, observations, strict=True):
            ref = subject.cascade.ref
            if seen is not None:
                await self._restore(subject.cascade, seen)
            views.append(
                CascadeView(
                    cascade=subject.cascade,
                    profile=subject.profile,
                    plan=self._plans.get(ref),
                    demand=seen.demand if seen else None,
                    queue_depths=seen.queue_depths if seen else None,
                    reports=seen.reports if seen else (),
                    status=self._statuses.get(ref) or subject.status,
                    complaint=subject.complaint,
                )
            )
        available = all(seen is not None for seen in observations)
        known = [(each.cascade, seen) for each, seen in zip(subjects, observations, strict=True)]
        return Snapshot(
            tuple(views),
            inventory,
            tuple(with_in_flight(worker, known) for worker in await self._cluster.workers()),
            store_available=available,
            pools=tuple(
                PoolView(each.pool, self._pool_statuses.get(key) or each.status, each.complaint)
                for key, each in self._pools().items()
            ),
        )

    async def _restore(self, cascade: DiffusionCascade, seen: Observation) -> None:
        """Take over plan and memory of an earlier operator; publish our plan again if Redis does not have it.

        In the modes ``paused`` and ``advisory`` a plan that is in Redis is left as it is; one that was lost is
        published again.
        """
        ref = cascade.ref
        if ref not in self._recalled:
            self._recalled.add(ref)
            kept = Memory.from_json(seen.memory).cascades.get(str(ref)) if seen.memory is not None else None
            if kept is not None and kept.is_credible(now=self._clock()):
                self._memory = Memory({**self._memory.cascades, str(ref): kept})
            elif seen.memory is not None:
                log.warning("the planner's memory in redis cannot be used; it is made anew", cascade=str(ref))
        ours = self._plans.get(ref)
        if ours is None:
            ours = seen.plan
            if ours is None:
                return
            self._plans[ref] = ours
        if cascade.spec.policy.mode != "auto" and seen.plan is not None:
            self._plans[ref] = seen.plan
            return
        newest = max(self._newest(seen), ours.generation)
        if seen.plan != ours or newest > ours.generation or not seen.listed:
            log.warning("the plan in redis is not as published; publishing it again", cascade=str(ref))
            # It gets a new number: routers may follow the plan that was there, and then accept only a newer one.
            ours = ours.model_copy(update={"generation": next_generation(now_s=self._clock(), last=newest)})
            self._plans[ref] = ours
            await self._store.publish(ours)

    def _newest(self, seen: Observation) -> int:
        """The highest generation that a router may follow, ignoring numbers that no operator can have given."""
        numbers = [report.plan_generation for report in seen.reports]
        if seen.plan is not None:
            numbers.append(seen.plan.generation)
        return max((number for number in numbers if is_credible(number, now_s=self._clock())), default=0)

    async def _act(self, decision: Decision, snapshot: Snapshot) -> None:
        """Put plans in force, then begin the moves of each pool in order, then report statuses.

        Cascades and pools do not wait for each other.
        """
        actions = decision.actions
        await asyncio.gather(*(self._publish(action.plan) for action in actions if isinstance(action, Publish)))
        pool_of = {worker.id: worker.pool for worker in snapshot.workers}
        by_pool: dict[PoolRef, list[Move]] = defaultdict(list)
        for action in actions:
            if not isinstance(action, Publish | SetStatus):
                by_pool[action.pool if isinstance(action, StartWorker) else pool_of[action.worker]].append(action)
        await asyncio.gather(*(self._move(pool, moves) for pool, moves in by_pool.items()))
        statuses = (action for action in actions if isinstance(action, SetStatus))
        await asyncio.gather(*(self._report(action.cascade, action.status) for action in statuses))

    async def _publish(self, plan: Plan) -> None:
        self._plans[plan.ref] = plan
        await self._store.publish(plan)
        self._reporter.plan(plan)

    async def _move(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        log.debug("acting", pool=repr(pool), moves=[repr(move) for move in moves])
        try:
            await self._cluster.act(pool, moves)
        except ClusterFailed as error:
            log.warning("a move was not begun; it is tried again", pool=repr(pool), error=str(error))
        except Exception:
            # A failure of one pool must not affect the others.
            log.exception("a move was not begun", pool=repr(pool))

    async def _report(self, ref: CascadeRef, status: CascadeStatus) -> None:
        if await self._reporter.status(ref, status):
            self._statuses[ref] = status

    async def _report_pools(self, decision: Decision) -> None:
        there = self._pools()
        self._pool_statuses = {key: kept for key, kept in self._pool_statuses.items() if key in there}
        for ref, uid in there:
            status = decision.pool_statuses.get(ref)
            if status is not None and await self._reporter.pool_status(ref, status):
                self._pool_statuses[ref, uid] = status

    def _pools(self) -> dict[tuple[PoolRef, str], PoolSubject]:
        """The WorkerPools that exist, by name and uid."""
        found = self._source.pools()
        return {(PoolRef(each.pool.metadata.namespace, each.pool.metadata.name), each.uid): each for each in found}

    async def _tell_refused(self, refused: Refused) -> None:
        before = self._statuses.get(refused.ref) or refused.status
        status = status_of_refused(refused, before=before, now=self._clock())
        if status != before:
            await self._report(refused.ref, status)

    async def _remember(self, memory: Memory) -> None:
        """Write the changed memories to Redis, one key for each cascade."""
        before, self._memory = self._memory, memory
        changed = {name: kept for name, kept in memory.cascades.items() if before.cascades.get(name) != kept}
        await asyncio.gather(*(self._save(CascadeRef.parse(name), kept) for name, kept in changed.items()))

    async def _save(self, ref: CascadeRef, memory: CascadeMemory) -> None:
        await self._store.save_memory(ref, Memory({str(ref): memory}).to_json())

    async def _forget_gone(self, present: set[CascadeRef]) -> None:
        """Withdraw the plans of deleted cascades, also of those deleted while the operator or Redis was away."""
        known = {*self._plans, *self._statuses, *(await self._store.published())}
        for ref in known - present:
            if self._source.owns(ref) and await self._store.forget(ref):
                log.info("withdrawn", cascade=str(ref))
                self._plans.pop(ref, None)
                self._statuses.pop(ref, None)
                self._recalled.discard(ref)
                self._reporter.gone(ref)


def with_in_flight(worker: Worker, known: Sequence[tuple[DiffusionCascade, Observation | None]]) -> Worker:
    """The worker with the credits in use by Redis, unless its driver has already given them.

    They stay unknown if Redis told nothing of a cascade that the worker may serve.
    """
    if worker.in_flight is not None:
        return worker
    used: dict[tuple[CascadeRef, str], int] = {}
    for cascade, seen in known:
        if worker.pool.owner not in (None, cascade.ref):
            continue
        if seen is None:
            return worker
        for variant in cascade.spec.variants:
            pool = pool_name(variant=variant.name, accelerator_class=worker.accelerator_class)
            used[cascade.ref, variant.name] = seen.in_use.get(pool, {}).get(worker.id, 0)
    return dataclasses.replace(worker, in_flight=used)
