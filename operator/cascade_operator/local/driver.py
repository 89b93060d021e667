"""Workers on this machine: a fixed number of slots, each with an agent and its Triton, pinned to one core."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from cascade_api.names import CPU_CLASS

from ..snapshot import DrainWorker, Load, Move, PoolRef, StartWorker, StopWorker, Unload, Worker
from ..sources import PoolSubject, Subject
from .slots import Assignment, RunningAgent, Slot

log = structlog.get_logger(__name__)


class LocalCluster:
    """The local driver: slots ``cpu-0`` to ``cpu-(n-1)``."""

    def __init__(
        self,
        *,
        slots: int,
        assignment_of: Callable[[PoolRef, Sequence[str]], Assignment],
        start_agent: Callable[[str], Awaitable[RunningAgent]],
        changed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """``assignment_of`` says what a slot of a pool needs for weights; ``changed`` is called when workers change."""
        self._assignment_of = assignment_of
        self._slots = {
            name: Slot(name, accelerator_class=CPU_CLASS, start_agent=start_agent, changed=changed, say=say)
            for name in (f"{CPU_CLASS}-{index}" for index in range(slots))
        }
        self._tasks = [asyncio.create_task(slot.run(), name=slot.id) for slot in self._slots.values()]

    @property
    def problem(self) -> str | None:
        """Why a slot does not start; None until one has failed several times in a row."""
        return next((slot.problem for slot in self._slots.values() if slot.problem), None)

    async def inventory(self) -> Mapping[str, int] | None:
        return {CPU_CLASS: len(self._slots)}

    async def workers(self) -> tuple[Worker, ...]:
        views = (slot.view() for slot in self._slots.values())
        return tuple(view for view in views if view is not None)

    async def reconcile(self, subjects: Sequence[Subject], pools: Sequence[PoolSubject]) -> None:
        """Do nothing: the manifest of a local run never changes."""

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        for move in moves:
            log.info("acting", move=repr(move))
            if isinstance(move, StartWorker):
                slot = self._free(move.accelerator_class)
                if slot is not None:
                    slot.assign(self._assignment_of(pool, move.weights))
            elif (slot := self._of(pool, move.worker)) is not None:
                self._begin(slot, pool, move)

    def _begin(self, slot: Slot, pool: PoolRef, move: DrainWorker | StopWorker | Load | Unload) -> None:
        hosted = slot.assignment.weights if slot.assignment is not None else ()
        match move:
            case Load():
                # In another order it would be another assignment, and a slot that fails would seem to begin anew.
                added = () if move.weights in hosted else (move.weights,)
                slot.assign(self._assignment_of(pool, [*hosted, *added]))
            case Unload() if move.weights in hosted:
                slot.assign(self._assignment_of(pool, [weights for weights in hosted if weights != move.weights]))
            case DrainWorker():
                slot.drain()
            case StopWorker():
                slot.release()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _of(self, pool: PoolRef, name: str) -> Slot | None:
        """The slot of that name; None if it does not belong to the pool."""
        slot = self._slots.get(name)
        return slot if slot is not None and slot.assignment is not None and slot.assignment.pool == pool else None

    def _free(self, accelerator_class: str) -> Slot | None:
        if accelerator_class != CPU_CLASS:
            return None
        return next((slot for slot in self._slots.values() if slot.assignment is None), None)
