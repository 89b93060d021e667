"""The planner's loop: collect what there is, decide, act; again at the time that the decision names, or when woken.

It outlives everything: an exception is logged and the last plan holds; without Redis the plan is kept here and put in
force again, also in a Redis that came back empty.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import structlog

from cascade_api.cascade import DiffusionCascade
from cascade_api.documents import CascadeFile
from cascade_api.names import CascadeRef
from cascade_api.plan import Plan
from cascade_api.settings import PlannerSettings
from cascade_api.status import CascadeStatus

from .clusters import Cluster
from .controller import Decision
from .explanations import plan_line, worth_telling
from .planning.memory import Memory
from .snapshot import CascadeView, Drain, Publish, Replica, SetStatus, Snapshot, Start, Stop
from .store import Observation, Store, pools_of

log = structlog.get_logger(__name__)

SHORTEST_TICK_S: Final = 0.1
"""However often it is woken, the loop rests this long between two decisions."""
AFTER_FAILURE_S: Final = 1.0


class Decide(Protocol):
    """The controller, as the loop calls it."""

    def __call__(self, snapshot: Snapshot, memory: Memory, now: float, settings: PlannerSettings) -> Decision: ...


class Loop:
    """One operator's loop over the cascades of a file."""

    def __init__(
        self,
        file: CascadeFile,
        *,
        cluster: Cluster,
        store: Store,
        decide: Decide,
        settings: PlannerSettings,
        say: Callable[[str], None],
        keep_status: Callable[[CascadeRef, CascadeStatus], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``say`` gets one line for each change of plan, ``keep_status`` each new status; ``clock`` is Unix time."""
        self._file = file
        self._cluster = cluster
        self._store = store
        self._decide = decide
        self._settings = settings
        self._say = say
        self._keep_status = keep_status
        self._clock = clock
        self._memory: Memory | None = None
        self._plans: dict[CascadeRef, Plan] = {}
        self._told: dict[CascadeRef, Plan] = {}
        self._statuses: dict[CascadeRef, CascadeStatus] = {}
        self._woken = asyncio.Event()
        self._solver = ThreadPoolExecutor(max_workers=1, thread_name_prefix="planner")

    def wake(self) -> None:
        """Decide soon: something changed."""
        self._woken.set()

    def plan(self, ref: CascadeRef) -> Plan | None:
        """The plan in force."""
        return self._plans.get(ref)

    def status(self, ref: CascadeRef) -> CascadeStatus | None:
        """The last status of a cascade."""
        return self._statuses.get(ref)

    async def run(self) -> None:
        """Turn until cancelled."""
        try:
            while True:
                self._woken.clear()
                next_at = await self._turn()
                await asyncio.sleep(SHORTEST_TICK_S)
                await self._rest(next_at)
        finally:
            self._solver.shutdown(wait=False, cancel_futures=True)

    async def _rest(self, until: float) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), max(0.0, until - self._clock()))
        except asyncio.TimeoutError:
            return

    async def _turn(self) -> float:
        """One tick that cannot fail; returns the time of the next."""
        try:
            return await self.tick()
        except Exception as error:
            log.exception("a tick failed; the last plan holds")
            self._say(f"planner: a decision failed ({type(error).__name__}: {error}); the last plan holds")
            return self._clock() + AFTER_FAILURE_S

    async def tick(self) -> float:
        """Collect, decide and act once; returns the time of the next tick."""
        snapshot, observations = await self._collect()
        if self._memory is None:
            self._memory = _recall(observations)
        now = self._clock()
        decision = await asyncio.get_running_loop().run_in_executor(
            self._solver, self._decide, snapshot, self._memory, now, self._settings
        )
        await self._act(decision)
        await self._remember(decision.memory)
        for found in decision.diagnostics:
            log.debug("decided", cascade=str(found.cascade), reason=found.reason, **found.figures)
        return decision.next_at

    async def _collect(self) -> tuple[Snapshot, list[Observation | None]]:
        cascades = self._file.cascades
        observations = list(await asyncio.gather(*(self._observe(cascade) for cascade in cascades)))
        inventory = await self._cluster.inventory()
        views = []
        for cascade, seen in zip(cascades, observations, strict=True):
            ref = cascade.ref
            if seen is not None:
                await self._restore(ref, seen)
            replicas = await self._cluster.replicas(ref)
            views.append(
                CascadeView(
                    cascade=cascade,
                    profile=self._file.profile_of(cascade),
                    plan=self._plans.get(ref),
                    demand=seen.demand if seen else None,
                    queue_depths=seen.queue_depths if seen else None,
                    reports=seen.reports if seen else (),
                    replicas=tuple(with_in_flight(replica, seen) for replica in replicas),
                    status=self._statuses.get(ref),
                )
            )
        available = all(seen is not None for seen in observations)
        return Snapshot(cascades=tuple(views), inventory=inventory, store_available=available), observations

    async def _observe(self, cascade: DiffusionCascade) -> Observation | None:
        return await self._store.observe(cascade.ref, pools_of(cascade))

    async def _restore(self, ref: CascadeRef, seen: Observation) -> None:
        """Take over the plan that an earlier operator left, or put ours in force again where it was lost."""
        ours = self._plans.get(ref)
        if ours is None:
            if seen.plan is not None:
                self._plans[ref] = seen.plan
        elif seen.plan is None or seen.plan.generation < ours.generation:
            log.warning("the plan was lost from redis; publishing it again", cascade=str(ref))
            await self._store.publish(ours)

    async def _act(self, decision: Decision) -> None:
        for action in decision.actions:
            if isinstance(action, Publish):
                await self._publish(action.plan)
            elif isinstance(action, SetStatus):
                self._statuses[action.cascade] = action.status
                self._keep_status(action.cascade, action.status)
            elif isinstance(action, Start | Drain | Stop):
                log.info("acting", action=repr(action))
                await self._cluster.act(action)

    async def _publish(self, plan: Plan) -> None:
        self._plans[plan.ref] = plan
        await self._store.publish(plan)
        if worth_telling(plan, self._told.get(plan.ref)):
            self._told[plan.ref] = plan
            self._say(plan_line(plan))

    async def _remember(self, memory: Memory) -> None:
        if memory == self._memory:
            return
        self._memory = memory
        text = memory.to_json()
        for cascade in self._file.cascades:
            await self._store.save_memory(cascade.ref, text)


def with_in_flight(replica: Replica, seen: Observation | None) -> Replica:
    """A replica with the credits in use that Redis knows of, unless its driver knows better."""
    if replica.in_flight is not None or seen is None:
        return replica
    return dataclasses.replace(replica, in_flight=seen.in_use.get(replica.id, 0))


def _recall(observations: Sequence[Observation | None]) -> Memory:
    """The memory that an earlier operator left in Redis, or none."""
    for seen in observations:
        if seen is not None and seen.memory is not None:
            return Memory.from_json(seen.memory)
    return Memory()
