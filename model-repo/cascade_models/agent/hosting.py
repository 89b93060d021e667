"""The heart of the agent: it keeps a Triton running, has it host what is wanted, and mends what breaks.

What is wanted can change at any time (`want`). What is hosted is what Triton showed: a model is ready when it has drawn
an image, and it is looked at twice a second after that. A model whose process died or hangs is unloaded and loaded
again, which Triton does not do by itself. A Triton that died or hangs is started again with everything that is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cascade_models.agent.health import ModelHealth
from cascade_models.agent.installation import LaunchError
from cascade_models.agent.server import ServerFailed
from cascade_models.agent.steps import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Deed,
    Host,
    Phase,
    Step,
    next_steps,
    next_try_s,
)
from cascade_models.agent.triton_http import InferenceCounts, Parameters, TritonError, TritonSilent, in_words
from cascade_models.agent.wanted import WantedHosts

CHECK_EVERY_S: Final = 0.5
FIRST_IMAGE_TIMEOUT_S: Final = 600.0
"""How long a model may take for its first image, on a busy machine and with a large model on a CPU."""
LOOK_EVERY_S: Final = 0.05
LOST_AFTER_S: Final = 2.0
"""A model that is being loaded, and whose process has been gone for so long, never will be."""
SETTLE_S: Final = 0.2
STEADY_S: Final = 5.0
"""A server that ran for longer is started again at once; one that dies sooner, after growing pauses."""


class LoadLost(TritonError):
    """A load of which the server never says how it ended; it has to be started again."""


class Client(Protocol):
    """What is asked of a Triton."""

    async def alive(self) -> bool: ...

    async def load(self, model: str) -> None: ...

    async def unload(self, model: str) -> None: ...

    async def gone(self, model: str) -> None: ...

    async def counts(self, model: str) -> InferenceCounts: ...

    async def draw(self, model: str, parameters: Parameters, *, timeout_s: float) -> None: ...


class RunningServer(Protocol):
    """What is asked of a server; `server.Server` in production."""

    endpoint: str
    ended: asyncio.Future[int]

    @property
    def client(self) -> Client: ...

    def runs(self, model: str) -> bool: ...

    def check_running(self) -> None: ...

    async def end(self, *, grace_s: float) -> None: ...


@dataclass(frozen=True)
class Report:
    """What is hosted now. ``number`` grows with every change, ``endpoint`` is that of gRPC while a server runs, and
    ``problem`` says why none does, after ``failures`` starts in a row that failed."""

    number: int
    endpoint: str | None
    problem: str
    failures: int
    hosts: Mapping[str, Host]


class Hosting:
    """`want` says what to host, `run` makes it so, and `report` says how far it is."""

    def __init__(
        self,
        *,
        start_server: Callable[[], Awaitable[RunningServer]],
        render: Callable[[WantedHosts, Iterable[str]], None],
        say: Callable[[str], None],
        exit_timeout_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``render`` writes the repository of what is wanted, and keeps the models that it is given too."""
        self._start_server = start_server
        self._render = render
        self._say = say
        self._exit_timeout_s = exit_timeout_s
        self._clock = clock
        self._wanted = WantedHosts()
        self._prints: dict[str, str] = {}
        self._hosts: dict[str, Host] = {}
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._image_s: dict[str, float] = {}
        self._endpoint: str | None = None
        self._problem = ""
        self._failures = 0
        self._number = 0
        self._woken = asyncio.Event()
        self._changed = asyncio.Condition()
        self._notes: set[asyncio.Task[None]] = set()

    def report(self) -> Report:
        """What is hosted now."""
        return Report(self._number, self._endpoint, self._problem, self._failures, dict(self._hosts))

    async def report_since(self, number: int, *, timeout_s: float) -> Report:
        """The report as soon as its number is another than ``number``, or after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._number != number)
        return self.report()

    def want(self, wanted: WantedHosts) -> None:
        """Host this from now on; raises OSError where the repository cannot be written, and then changes nothing."""
        self._render(wanted, self._hosts)
        self._wanted, self._prints = wanted, wanted.prints
        self._note()

    async def run(self) -> None:
        """Keep a server running until cancelled; then let it end what it has in hand."""
        while True:
            began_s = self._clock()
            try:
                server = await self._start_server()
            except (ServerFailed, LaunchError, OSError) as error:
                await self._pause(error, began_s)
                continue
            failure: ServerFailed | None = None
            try:
                self._endpoint, self._problem = server.endpoint, ""
                self._note()
                await self._serve(server)
            except ServerFailed as error:
                failure = error
                # Whoever asks from now on hears why nothing is hosted.
                self._problem = str(error)
            finally:
                await self._end(server, grace_s=self._exit_timeout_s if failure is None else 0)
            if failure is not None:
                await self._pause(failure, began_s)

    async def _pause(self, failure: Exception, began_s: float) -> None:
        """Wait before another start: not at all after a run of some length, and longer after each that failed."""
        self._problem = str(failure)
        self._failures = 1 if self._clock() - began_s > STEADY_S else self._failures + 1
        self._say(f"{failure}: starting it again")
        self._note()
        if self._failures > 1:
            await asyncio.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures - 2, 10)))

    async def _serve(self, server: RunningServer) -> None:
        """Take one step after the other until the server fails, which raises ServerFailed."""
        while True:
            self._woken.clear()
            wanted = self._prints
            steps = next_steps(wanted, self._hosts, room=self._wanted.room, now_s=self._clock())
            for step in steps:
                self._begin(server, step)
            self._watch(server)
            due_s = next_try_s(wanted, self._hosts)
            waker = asyncio.ensure_future(self._woken.wait())
            either: list[asyncio.Future[Any]] = [waker, server.ended]
            try:
                await asyncio.wait(
                    either,
                    timeout=None if due_s is None else max(0.0, due_s - self._clock()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                waker.cancel()
            server.check_running()
            failed = self._collect()
            if failed is not None:
                # The end of a process is noticed a moment after its connections are gone.
                await asyncio.wait([server.ended], timeout=SETTLE_S)
                server.check_running()
                raise ServerFailed(f"its server does not answer ({failed})")

    def _begin(self, server: RunningServer, step: Step) -> None:
        host = self._hosts.get(step.model)
        message, failures = (host.message, host.failures) if host is not None else ("", 0)
        phase = Phase.UNLOADING if step.deed is Deed.UNLOAD else Phase.LOADING
        print_ = self._prints.get(step.model, host.print if host is not None else "")
        self._enter(step.model, phase, print_=print_, message=message, failures=failures)
        self._operations[step.model] = self._task(self._do(server, step), name=step.model)

    async def _do(self, server: RunningServer, step: Step) -> None:
        """Carry out a step; raises TritonSilent where the server hangs, and LoadLost where it waits for nobody."""
        model, client = step.model, server.client
        if step.deed is Deed.UNLOAD:
            await client.unload(model)
            await client.gone(model)
            del self._hosts[model]
            if model not in self._prints:
                self._image_s.pop(model, None)
            self._render(self._wanted, self._hosts)
            self._note()
            return
        host = self._hosts[model]
        began = self._clock()
        try:
            if step.deed is Deed.LOAD_ANEW:
                await client.unload(model)
            await self._load(server, model)
            drew = self._clock()
            await client.draw(model, self._proof(model), timeout_s=FIRST_IMAGE_TIMEOUT_S)
        except LoadLost:
            raise
        except TritonError as error:
            if isinstance(error, TritonSilent) and not await client.alive():
                raise
            message = in_words(str(error))
            self._say(f"{model} cannot be loaded: {message}")
            self._enter(model, Phase.FAILED, print_=host.print, message=message, failures=host.failures + 1)
            return
        self._image_s[model] = self._clock() - drew
        self._say(f"{model} is ready after {self._clock() - began:.1f} s")
        self._enter(model, Phase.READY, print_=host.print)

    async def _load(self, server: RunningServer, model: str) -> None:
        """Load a model; raises LoadLost where its process died so early that the server (2.51) waits for ever."""
        loading = asyncio.ensure_future(server.client.load(model))
        seen, gone_since_s = False, self._clock()
        try:
            while not loading.done():
                await asyncio.wait([loading], timeout=LOOK_EVERY_S)
                if server.runs(model):
                    seen, gone_since_s = True, self._clock()
                elif self._clock() - gone_since_s > LOST_AFTER_S * (1 if seen else 3) and not loading.done():
                    raise LoadLost(f"the process of {model} ended while it was being loaded")
            loading.result()
        finally:
            loading.cancel()

    def _watch(self, server: RunningServer) -> None:
        """Look after every model that is ready, and after no other."""
        for model in [model for model in self._watchers if not self._is_ready(model)]:
            self._watchers.pop(model).cancel()
        for model in self._hosts:
            if self._is_ready(model) and model not in self._watchers:
                self._watchers[model] = self._task(self._look_after(server.client, model), name=model)

    async def _look_after(self, client: Client, model: str) -> None:
        """Look at a model that is ready until it is broken; raises TritonSilent where the server hangs."""
        health = ModelHealth(image_s=self._image_s.get(model, 0.0), batch=self._batch(model))
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            try:
                complaint = await health.complaint(client, model, self._proof(model))
            except TritonSilent:
                raise
            except TritonError as error:
                complaint = str(error)
            if complaint is not None and self._is_ready(model):
                self._say(f"{model} does not answer ({complaint}): loading it again")
                self._enter(model, Phase.BROKEN, print_=self._hosts[model].print, message=complaint)
                return

    def _collect(self) -> TritonError | None:
        """Forget operations that are done; what one found where the server hangs."""
        failed = None
        for tasks in (self._operations, self._watchers):
            for model in [model for model, task in tasks.items() if task.done()]:
                task = tasks.pop(model)
                error = None if task.cancelled() else task.exception()
                if isinstance(error, TritonError):
                    failed = error
                elif error is not None:
                    raise error
        return failed

    async def _end(self, server: RunningServer, *, grace_s: float) -> None:
        tasks = [*self._operations.values(), *self._watchers.values()]
        self._operations, self._watchers = {}, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._hosts, self._endpoint = {}, None
        self._note()
        await server.end(grace_s=grace_s)

    def _task(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Do something beside the loop, which goes on when it is done."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._woken.set())
        return task

    def _proof(self, model: str) -> Parameters:
        return self._wanted.proofs.get(model, {})

    def _batch(self, model: str) -> int:
        recipe = self._wanted.recipes.get(model)
        return 1 if recipe is None else recipe.batch

    def _is_ready(self, model: str) -> bool:
        host = self._hosts.get(model)
        return host is not None and host.phase is Phase.READY

    def _enter(self, model: str, phase: Phase, *, print_: str, message: str = "", failures: int = 0) -> None:
        self._hosts[model] = Host(phase, self._clock(), print_, message, failures)
        self._note()

    def _note(self) -> None:
        """Something changed: go on with the next step, and tell those who wait."""
        self._number += 1
        self._woken.set()
        task = asyncio.ensure_future(self._tell())
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
