"""One accelerator slot: what it should serve, and the task that makes a Triton server serve it and keeps it healthy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cascade_api.cascade import Variant

from ..snapshot import Host, HostState, PoolRef, Worker, WorkerState
from .health import ModelHealth
from .server import Server, ServerFailed
from .supervisor import Backoff
from .triton import TritonError

CHECK_EVERY_S: Final = 0.5
FAILED_AFTER: Final = 3
"""After this many failed starts in a row, a slot counts as failed; it is still tried again."""
NOWHERE: Final = "127.0.0.1:0"
"""The endpoint of a worker that has no server now."""
_HOSTING: Final = {
    WorkerState.STARTING: HostState.LOADING,
    WorkerState.READY: HostState.READY,
    WorkerState.DRAINING: HostState.READY,
    WorkerState.FAILED: HostState.FAILED,
}
"""What became of the weights of a slot in each state."""


@dataclass(frozen=True)
class Assignment:
    """The pool that a slot belongs to, and the variant whose weights it should host and be tried with."""

    pool: PoolRef
    variant: Variant

    @property
    def model(self) -> str:
        """The Triton model that it needs."""
        return self.variant.weights.model


class Slot:
    """`assign`, `drain` and `release` only note what is wanted and return; `run` makes it so."""

    def __init__(
        self,
        slot_id: str,
        *,
        accelerator_class: str,
        start_server: Callable[[str, str], Awaitable[Server]],
        changed: Callable[[], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``start_server`` takes slot id and model; ``changed`` is called whenever `view` may differ."""
        self.id = slot_id
        self._class = accelerator_class
        self._start_server = start_server
        self._changed = changed
        self._say = say
        self._clock = clock
        self._wanted: Assignment | None = None
        self._draining = False
        self._state = WorkerState.STARTING
        self._since_s = clock()
        self._woken = asyncio.Event()
        self._backoff = Backoff()
        self._server: Server | None = None
        self._complaint = ""

    @property
    def problem(self) -> str | None:
        """Why the slot does not start; None until it has failed several times in a row."""
        return self._complaint if self._state is WorkerState.FAILED else None

    @property
    def assignment(self) -> Assignment | None:
        """What the slot should serve; None if it is free."""
        return self._wanted

    def view(self) -> Worker | None:
        """The slot as a worker; None while it is free. Only routers know the requests in flight."""
        if self._wanted is None:
            return None
        gone = self._server is None
        return Worker(
            id=self.id,
            pool=self._wanted.pool,
            accelerator_class=self._class,
            endpoint=NOWHERE if self._server is None else self._server.endpoint,
            state=self._state,
            since_s=self._since_s,
            hosts=(Host(self._wanted.variant.weights.digest, _HOSTING[self._state], self._since_s),),
            # The requests of a dead server are lost, so there is nothing to wait for.
            in_flight={} if gone and self._draining else None,
        )

    def assign(self, assignment: Assignment) -> None:
        """Serve this; in place if the server is there, at once if it has the weights, and no longer draining."""
        if assignment == self._wanted and not self._draining:
            return
        same_model = self._server is not None and self._server.model == assignment.model
        proven = same_model and self._state in (WorkerState.READY, WorkerState.DRAINING)
        if assignment != self._wanted:
            self._backoff = Backoff()
        self._wanted = assignment
        self._draining = False
        self._enter(WorkerState.READY if proven else WorkerState.STARTING)
        self._woken.set()

    def drain(self) -> None:
        """Take no new work, and finish the requests in flight."""
        if self._wanted is not None and not self._draining:
            self._draining = True
            self._enter(WorkerState.DRAINING)

    def release(self) -> None:
        """Become free, and end the server."""
        if self._wanted is not None:
            self._wanted = None
            self._draining = False
            self._woken.set()
            self._changed()

    async def run(self) -> None:
        """Make the slot serve what is wanted, and keep it so, until cancelled; then end the server."""
        try:
            while True:
                self._woken.clear()
                try:
                    await self._step()
                except TritonError as error:
                    await self._retreat(f"its server fails ({error})")
                except (ServerFailed, OSError) as error:
                    await self._retreat(str(error))
        finally:
            await self._end_server()

    async def _step(self) -> None:
        """Serve what is wanted until that changes; raises if the server must be replaced."""
        wanted = self._wanted
        if wanted is None or (self._server is None and self._draining):
            await self._end_server()
            await self._woken.wait()
            return
        if self._server is None:
            self._server = await self._start_server(self.id, wanted.model)
        elif self._server.model != wanted.model:
            await self._server.change_model(wanted.model)
        await self._server.prove(wanted.variant.settings.parameters)
        if self._wanted == wanted:
            self._serving()
            await self._watch(self._server, wanted)

    async def _watch(self, server: Server, wanted: Assignment) -> None:
        health = ModelHealth()
        waker = asyncio.ensure_future(self._woken.wait())
        try:
            while not waker.done():
                await asyncio.wait(
                    [waker, server.child.ended], timeout=CHECK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                server.check_running()
                if waker.done():
                    return
                complaint = await self._look(server, wanted, health)
                if complaint is not None:
                    await asyncio.wait([server.child.ended], timeout=0.1)
                    server.check_running()
                    await self._mend(server, wanted, complaint)
        finally:
            waker.cancel()

    async def _look(self, server: Server, wanted: Assignment, health: ModelHealth) -> str | None:
        """What is wrong with the model; None if it works. Raises TritonError if its server hangs."""
        try:
            return await health.complaint(server.client, wanted.model, wanted.variant.settings.parameters)
        except TritonError:
            # If the machine stood still, only one call is late; a server that hangs does not answer the second one.
            server.check_running()
            return await health.complaint(server.client, wanted.model, wanted.variant.settings.parameters)

    async def _mend(self, server: Server, wanted: Assignment, complaint: str) -> None:
        """Give the model a new process by loading it again."""
        began = time.monotonic()
        self._say(f"{self.id}: {wanted.variant.name} does not answer ({complaint}): loading it again")
        if not self._draining:
            self._enter(WorkerState.STARTING)
        await server.change_model(wanted.model)
        await server.prove(wanted.variant.settings.parameters)
        if self._wanted == wanted:
            self._serving()
        self._say(f"{self.id}: {wanted.variant.name} is back after {time.monotonic() - began:.1f} s")

    def _serving(self) -> None:
        self._enter(WorkerState.DRAINING if self._draining else WorkerState.READY)

    async def _retreat(self, why: str) -> None:
        """End a server that does not work, and wait before the next one is started, longer after each failure."""
        ran_s = 0.0 if self._server is None else time.monotonic() - self._server.child.started
        wait_s = self._backoff.after(ran_s)
        serving = f" ({self._wanted.variant.name})" if self._wanted is not None else ""
        self._complaint = f"{self.id}{serving}: {why}"
        self._say(self._complaint)
        if self._wanted is not None and not self._draining:
            self._enter(WorkerState.FAILED if self._backoff.failures > FAILED_AFTER else WorkerState.STARTING)
        await self._end_server()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), wait_s)

    async def _end_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.end()
            self._changed()

    def _enter(self, state: WorkerState) -> None:
        if state is not self._state:
            self._state = state
            self._since_s = self._clock()
        self._changed()
