"""One accelerator slot: what it should serve, and the task that has an agent host it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cascade_api.cascade import DiffusionCascade
from cascade_api.hosts import host_entries
from cascade_api.names import CascadeRef
from cascade_api.profile import CascadeProfile

from ..snapshot import Replica, ReplicaState, apart
from .agents import AgentFailed, Report
from .supervisor import Backoff

FAILED_AFTER: Final = 3
"""After this many failed starts or loads in a row, a slot counts as failed; it is still tried again."""
NOWHERE: Final = "127.0.0.1:0"
"""The endpoint of a replica that has no server now."""
NOTHING: Final[Mapping[str, Any]] = {"variants": []}
"""What the agent of a free slot is told."""


class RunningChild(Protocol):
    """The process of an agent."""

    @property
    def started(self) -> float: ...

    @property
    def ended(self) -> asyncio.Future[int]: ...


class RunningAgent(Protocol):
    """What a slot needs of an agent; `agents.Agent` in production."""

    @property
    def child(self) -> RunningChild: ...

    async def host(self, document: Mapping[str, Any]) -> Report: ...

    async def next_report(self, last: Report) -> Report: ...

    def check_running(self) -> None: ...

    async def end(self) -> None: ...


@dataclass(frozen=True)
class Assignment:
    """What a slot should serve, as one name (`snapshot.together`), and for which cascade.

    ``models`` are the Triton models that it needs, by the variants that they serve; ``document`` says so to an agent.
    """

    cascade: CascadeRef
    serves: str
    models: Mapping[str, str]
    document: Mapping[str, Any]

    @classmethod
    def of(cls, cascade: DiffusionCascade, profile: CascadeProfile, serves: str) -> Assignment:
        """What a slot needs to serve these variants."""
        names = apart(serves)
        models: dict[str, str] = {}
        for name in names:
            model = cascade.spec.variant(name).weights.model
            models[model] = f"{models[model]}, {name}" if model in models else name
        entries = host_entries(cascade.spec, profile.spec, names)
        # A drained slot serves nobody, so nothing is gained by loading one model before the other is gone.
        return cls(cascade.ref, serves, models, {"variants": entries, "room": len(models) > 1})


class Slot:
    """`assign`, `drain` and `release` only note what is wanted and return; `run` makes it so.

    A free slot has an agent, too, so that its server is there when the slot is needed.
    """

    def __init__(
        self,
        slot_id: str,
        *,
        accelerator_class: str,
        start_agent: Callable[[str], Awaitable[RunningAgent]],
        changed: Callable[[], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``start_agent`` takes the slot's id; ``changed`` is called whenever `view` may differ."""
        self.id = slot_id
        self._class = accelerator_class
        self._start_agent = start_agent
        self._changed = changed
        self._say = say
        self._clock = clock
        self._wanted: Assignment | None = None
        self._draining = False
        self._state = ReplicaState.STARTING
        self._since_s = clock()
        self._woken = asyncio.Event()
        self._backoff = Backoff()
        self._agent: RunningAgent | None = None
        self._report: Report | None = None
        self._complaint = ""
        self._ill_since: dict[str, float] = {}

    @property
    def problem(self) -> str | None:
        """Why the slot does not start; None until it has failed several times in a row."""
        return self._complaint if self._state is ReplicaState.FAILED else None

    @property
    def assignment(self) -> Assignment | None:
        """What the slot should serve; None if it is free."""
        return self._wanted

    def view(self) -> Replica | None:
        """The slot as a replica; None while it is free. Only routers know the requests in flight."""
        if self._wanted is None:
            return None
        endpoint = None if self._report is None else self._report.endpoint
        return Replica(
            id=self.id,
            accelerator_class=self._class,
            endpoint=endpoint or NOWHERE,
            variant=self._wanted.serves,
            state=self._state,
            since_s=self._since_s,
            # The requests of a dead server are lost, so there is nothing to wait for.
            in_flight=0 if endpoint is None and self._draining else None,
        )

    def assign(self, assignment: Assignment) -> None:
        """Serve this; at once if all of its weights are hosted, and no longer draining."""
        if assignment == self._wanted and not self._draining:
            return
        if assignment != self._wanted:
            self._backoff = Backoff()
            self._ill_since = {}
        self._wanted = assignment
        self._draining = False
        self._enter(ReplicaState.READY if self._hosts(assignment) else ReplicaState.STARTING)
        self._woken.set()

    def drain(self) -> None:
        """Take no new work, and finish the requests in flight."""
        if self._wanted is not None and not self._draining:
            self._draining = True
            self._enter(ReplicaState.DRAINING)

    def release(self) -> None:
        """Become free, and have the agent host nothing."""
        if self._wanted is not None:
            self._wanted = None
            self._draining = False
            self._woken.set()
            self._changed()

    async def run(self) -> None:
        """Make the slot serve what is wanted, and keep it so, until cancelled; then end the agent."""
        try:
            while True:
                self._woken.clear()
                try:
                    await self._step()
                except (AgentFailed, OSError) as error:
                    await self._retreat(str(error))
        finally:
            await self._end_agent()

    async def _step(self) -> None:
        """Have the agent host what is wanted until that changes; raises if the agent must be replaced."""
        wanted = self._wanted
        if self._agent is None:
            if self._draining:
                await self._woken.wait()
                return
            self._agent = await self._start_agent(self.id)
        report = await self._agent.host(NOTHING if wanted is None else wanted.document)
        while self._wanted == wanted:
            self._heard(report, wanted)
            news = await self._news(self._agent, report)
            if news is None:
                return
            report = news

    async def _news(self, agent: RunningAgent, report: Report) -> Report | None:
        """The next report; None if something else is wanted first. Raises AgentFailed if the agent is gone."""
        hearing = asyncio.ensure_future(agent.next_report(report))
        waker = asyncio.ensure_future(self._woken.wait())
        either: list[asyncio.Future[Any]] = [hearing, waker, agent.child.ended]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            agent.check_running()
            if waker.done():
                return None
            if hearing.exception() is not None:
                # The end of a process is noticed a moment after its connections are gone.
                await asyncio.wait([agent.child.ended], timeout=0.1)
                agent.check_running()
            return hearing.result()
        finally:
            waker.cancel()
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    def _heard(self, report: Report, wanted: Assignment | None) -> None:
        """Enter the state that a report shows, and tell the user what is ill and what is well again."""
        before, self._report = self._report, report
        if wanted is None:
            return
        self._tell(wanted, report)
        if self._hosts(wanted):
            self._enter(ReplicaState.DRAINING if self._draining else ReplicaState.READY)
            return
        failed = [
            f"{wanted.models[model]}: its model cannot be loaded: {host.message}"
            for model, host in report.hosts.items()
            if model in wanted.models and host.failures > FAILED_AFTER
        ]
        if report.problem and report.failures > FAILED_AFTER:
            failed = [report.problem]
        if failed:
            self._complaint = f"{self.id} ({wanted.serves}): {'; '.join(failed)}"
        if not self._draining:
            self._enter(ReplicaState.FAILED if failed else ReplicaState.STARTING)
        elif before is None or before.endpoint != report.endpoint:
            self._changed()

    def _tell(self, wanted: Assignment, report: Report) -> None:
        """Say once that a model of ours is ill, and that it is back."""
        now = self._clock()
        for model, names in wanted.models.items():
            host = report.hosts.get(model)
            why = report.problem if host is None else host.message
            if host is not None and host.state == "ready":
                since_s = self._ill_since.pop(model, None)
                if since_s is not None:
                    self._say(f"{self.id}: {names} is back after {now - since_s:.1f} s")
            elif why and model not in self._ill_since:
                self._ill_since[model] = now
                self._say(f"{self.id}: {names} does not work ({why}): its agent sees to it")

    def _hosts(self, assignment: Assignment) -> bool:
        """Whether all that an assignment needs is ready."""
        if self._report is None or self._report.endpoint is None:
            return False
        hosts = self._report.hosts
        return all(model in hosts and hosts[model].state == "ready" for model in assignment.models)

    async def _retreat(self, why: str) -> None:
        """End an agent that does not work, and wait before the next one is started, longer after each failure."""
        ran_s = 0.0 if self._agent is None else time.monotonic() - self._agent.child.started
        wait_s = self._backoff.after(ran_s)
        serving = f" ({self._wanted.serves})" if self._wanted is not None else ""
        self._complaint = f"{self.id}{serving}: {why}"
        self._say(self._complaint)
        if self._wanted is not None and not self._draining:
            self._enter(ReplicaState.FAILED if self._backoff.failures > FAILED_AFTER else ReplicaState.STARTING)
        await self._end_agent()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), wait_s)

    async def _end_agent(self) -> None:
        agent, self._agent, self._report = self._agent, None, None
        if agent is not None:
            await agent.end()
            self._changed()

    def _enter(self, state: ReplicaState) -> None:
        if state is not self._state:
            self._state = state
            self._since_s = self._clock()
        self._changed()
