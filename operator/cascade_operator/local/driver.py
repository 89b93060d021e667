"""Replicas on this machine: a fixed number of slots, each with one Triton server that is pinned to one core."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from cascade_api.cascade import Variant
from cascade_api.names import CPU_CLASS, CascadeRef

from ..snapshot import Drain, Mobility, Replica, Start, Stop
from ..sources import Subject
from .server import Server
from .slots import Assignment, Slot
from .state import StateDir
from .supervisor import Program

log = structlog.get_logger(__name__)

SERVER_NICE = 2
"""Added to the nice value of servers, so that router, Redis and planner have priority on a busy machine."""


class LocalCluster:
    """The local driver: slots ``cpu-0`` to ``cpu-(n-1)``."""

    mobility = Mobility.IN_PLACE

    def __init__(
        self,
        *,
        slots: int,
        variant_of: Callable[[CascadeRef, str], Variant],
        start_server: Callable[[str, str], Awaitable[Server]],
        changed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """``variant_of`` finds a variant by name; ``changed`` is called whenever a replica changes its state."""
        self._variant_of = variant_of
        self._slots = {
            name: Slot(name, accelerator_class=CPU_CLASS, start_server=start_server, changed=changed, say=say)
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
                slot.assign(Assignment(action.cascade, self._variant_of(action.cascade, action.variant)))
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


def server_program(launcher: str, *, state: StateDir, slot_id: str, endpoint: str, model: str) -> Program:
    """The program that serves a model on a slot, at an endpoint, pinned to the slot's core."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[int(slot_id.rpartition("-")[2]) % len(cores)]
    command = [
        launcher,
        f"--model-repository={state.models}",
        f"--grpc-address={endpoint}",
        f"--load={model}",
        f"--replica-id={state.replica_id(slot_id)}",
        f"--core={core}",
    ]
    return Program(name=slot_id, command=command, nice=SERVER_NICE)
