"""Replicas on this machine: a fixed number of slots, each with an agent and its Triton, pinned to one core."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from cascade_api.names import CPU_CLASS, CascadeRef

from ..snapshot import Drain, Mobility, Replica, Start, Stop
from ..sources import Subject
from .slots import Assignment, RunningAgent, Slot

log = structlog.get_logger(__name__)


class LocalCluster:
    """The local driver: slots ``cpu-0`` to ``cpu-(n-1)``."""

    mobility = Mobility.IN_PLACE
    hosts_several = True

    def __init__(
        self,
        *,
        slots: int,
        assignment_of: Callable[[CascadeRef, str], Assignment],
        start_agent: Callable[[str], Awaitable[RunningAgent]],
        changed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """``assignment_of`` says what a slot needs to serve variants (`snapshot.together`); ``changed`` is called
        whenever a replica changes its state."""
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

    async def replicas(self, ref: CascadeRef) -> tuple[Replica, ...]:
        owned = (slot for slot in self._slots.values() if slot.assignment and slot.assignment.cascade == ref)
        views = (slot.view() for slot in owned)
        return tuple(view for view in views if view is not None)

    async def reconcile(self, subjects: Sequence[Subject]) -> None:
        """Do nothing: the manifest of a local run never changes."""

    async def act(self, moves: Sequence[Start | Drain | Stop]) -> None:
        for move in moves:
            log.info("acting", move=repr(move))
            self._begin(move)

    def _begin(self, action: Start | Drain | Stop) -> None:
        if isinstance(action, Start):
            slot = self._free(action.accelerator_class) if action.replica_id is None else self._of(action)
            if slot is not None:
                slot.assign(self._assignment_of(action.cascade, action.variant))
            return
        slot = self._of(action)
        if slot is not None and isinstance(action, Drain):
            slot.drain()
        elif slot is not None:
            slot.release()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _of(self, action: Start | Drain | Stop) -> Slot | None:
        """The slot that an action names; None if another cascade has it."""
        slot = self._slots.get(action.replica_id or "")
        if slot is None or slot.assignment is None:
            return slot if isinstance(action, Start) else None
        return slot if slot.assignment.cascade == action.cascade else None

    def _free(self, accelerator_class: str) -> Slot | None:
        if accelerator_class != CPU_CLASS:
            return None
        return next((slot for slot in self._slots.values() if slot.assignment is None), None)
