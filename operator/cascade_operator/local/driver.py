"""Workers on this machine: a fixed number of slots, each with one Triton server that is pinned to one core."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from cascade_api.cascade import Variant
from cascade_api.names import CPU_CLASS

from ..snapshot import DrainWorker, Load, Move, PoolRef, StartWorker, StopWorker, Unload, Worker
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

    hosts_several = False

    def __init__(
        self,
        *,
        slots: int,
        variant_with: Callable[[PoolRef, str], Variant],
        start_server: Callable[[str, str], Awaitable[Server]],
        changed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """``variant_with`` finds a variant of a pool by its weights; ``changed`` is called when a worker changes."""
        self._variant_with = variant_with
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

    async def workers(self) -> tuple[Worker, ...]:
        views = (slot.view() for slot in self._slots.values())
        return tuple(view for view in views if view is not None)

    async def reconcile(self, subjects: Sequence[Subject]) -> None:
        """Do nothing: the manifest of a local run never changes."""

    async def act(self, pool: PoolRef, moves: Sequence[Move]) -> None:
        for move in moves:
            log.info("acting", move=repr(move))
            if isinstance(move, StartWorker):
                slot = self._free(move.accelerator_class)
                if slot is not None:
                    slot.assign(Assignment(pool, self._variant_with(pool, move.weights[0])))
            elif (slot := self._of(pool, move.worker)) is not None:
                self._begin(slot, move)

    def _begin(self, slot: Slot, move: DrainWorker | StopWorker | Load | Unload) -> None:
        match move:
            case Load() if slot.assignment is not None:
                slot.assign(Assignment(slot.assignment.pool, self._variant_with(slot.assignment.pool, move.weights)))
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
