"""One accelerator slot: the weights that it should host, and the task that has an agent host them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cascade_api.cascade import DiffusionCascade
from cascade_api.hosts import hosts_document
from cascade_api.profile import CascadeProfile

from ..agent_reports import FAILED_AFTER, NOTHING, AgentFailed, Report, host_states
from ..snapshot import Host, HostState, PoolRef, Worker, WorkerState
from .supervisor import Backoff

NOWHERE: Final = "127.0.0.1:0"
"""The endpoint of a worker that has no server now."""


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
class Hosting:
    """Weights that a slot should host: their Triton model, and the variants that it serves, in words."""

    model: str
    variants: str


@dataclass(frozen=True)
class Assignment:
    """The weights that a slot of a pool should host, by digest; ``document`` says so to an agent."""

    pool: PoolRef
    weights: Mapping[str, Hosting]
    document: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        pool: PoolRef,
        cascades: Sequence[tuple[DiffusionCascade, CascadeProfile]],
        weights: Sequence[str],
    ) -> Assignment:
        """What a slot needs to host some weights, for all variants of the pool's cascades that have them."""
        variants = [v for digest in weights for c, _ in cascades for v in c.spec.variants if v.weights.digest == digest]
        names: dict[str, list[str]] = {}
        for variant in variants:
            names.setdefault(variant.weights.digest, []).append(variant.name)
        hosting = {
            v.weights.digest: Hosting(v.weights.model, ", ".join(dict.fromkeys(names[v.weights.digest])))
            for v in variants
        }
        return cls(pool, hosting, hosts_document([(c.spec, profile.spec) for c, profile in cascades], weights))

    @property
    def variants(self) -> str:
        """The variants that it serves, in words."""
        return ", ".join(each.variants for each in self.weights.values())


class Slot:
    """`assign`, `drain` and `release` only note what is wanted and return; `run` makes it so."""

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
        self._woken = asyncio.Event()
        self._backoff = Backoff()
        self._agent: RunningAgent | None = None
        self._report: Report | None = None
        self._complaint = ""
        self._shown: Worker | None = None
        self._ill_since: dict[str, float] = {}

    @property
    def problem(self) -> str | None:
        """Why the slot or some of its weights do not start; None until they have failed several times in a row."""
        view = self._shown
        failed = view is not None and (view.state is WorkerState.FAILED or view.hosting(HostState.FAILED))
        return self._complaint if failed else None

    @property
    def assignment(self) -> Assignment | None:
        """What the slot should host; None if it is free."""
        return self._wanted

    def view(self) -> Worker | None:
        """The slot as a worker; None while it is free. Only routers know the requests in flight."""
        return self._shown

    def assign(self, assignment: Assignment) -> None:
        """Host these weights, and be no longer draining."""
        if assignment == self._wanted and not self._draining:
            return
        if assignment != self._wanted:
            self._backoff = Backoff()
            self._ill_since = {}
        self._wanted = assignment
        self._draining = False
        self._show()
        self._woken.set()

    def drain(self) -> None:
        """Take no new work, and finish the requests in flight."""
        self._draining = True
        self._show()

    def release(self) -> None:
        """Become free, and have the agent host nothing."""
        self._wanted = None
        self._draining = False
        self._show()
        self._woken.set()

    async def run(self) -> None:
        """Make the slot host what is wanted, and keep it so, until cancelled; then end the agent."""
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
        """Show what a report says, and tell the user what is ill and what is well again."""
        self._report = report
        now = self._clock()
        failed = [] if report.endpoint is not None or report.failures <= FAILED_AFTER else [report.problem]
        for digest, each in wanted.weights.items() if wanted is not None else ():
            host = report.hosts.get(each.model)
            why = report.problem if host is None else host.message
            if host is not None and host.state == "ready":
                since_s = self._ill_since.pop(digest, None)
                if since_s is not None:
                    self._say(f"{self.id}: {each.variants} is back after {now - since_s:.1f} s")
            elif why and digest not in self._ill_since:
                self._ill_since[digest] = now
                self._say(f"{self.id}: {each.variants} does not work ({why}): its agent sees to it")
            if host is not None and host.failures > FAILED_AFTER:
                failed.append(f"{each.variants}: its model cannot be loaded: {host.message}")
        if failed and wanted is not None:
            self._complaint = f"{self.id} ({wanted.variants}): {'; '.join(failed)}"
        self._show()

    async def _retreat(self, why: str) -> None:
        """End an agent that does not work, and wait before the next one is started, longer after each failure."""
        ran_s = 0.0 if self._agent is None else time.monotonic() - self._agent.child.started
        wait_s = self._backoff.after(ran_s)
        serving = f" ({self._wanted.variants})" if self._wanted is not None else ""
        self._complaint = f"{self.id}{serving}: {why}"
        self._say(self._complaint)
        self._show()
        await self._end_agent()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()

    async def _end_agent(self) -> None:
        agent, self._agent, self._report = self._agent, None, None
        self._show()
        if agent is not None:
            await agent.end()

    # --- the slot as a worker

    def _show(self) -> None:
        """Make the view anew, and say if it differs; what has not changed keeps its time."""
        before, self._shown = self._shown, self._seen()
        if self._shown != before:
            self._changed()

    def _seen(self) -> Worker | None:
        if self._wanted is None:
            return None
        now, before = self._clock(), self._shown
        endpoint = None if self._report is None else self._report.endpoint
        state = self._state(endpoint)
        known = {(host.weights, host.state): host.since_s for host in before.hosts} if before is not None else {}
        hosts = host_states(self._wanted.weights, self._report)
        return Worker(
            id=self.id,
            pool=self._wanted.pool,
            accelerator_class=self._class,
            endpoint=endpoint or NOWHERE,
            state=state,
            since_s=before.since_s if before is not None and before.state is state else now,
            hosts=tuple(Host(digest, host, known.get((digest, host), now)) for digest, host in hosts.items()),
            # The requests of a dead server are lost, so there is nothing to wait for.
            in_flight={} if endpoint is None and self._draining else None,
        )

    def _state(self, endpoint: str | None) -> WorkerState:
        if self._draining:
            return WorkerState.DRAINING
        if endpoint is not None:
            return WorkerState.READY
        failures = max(self._backoff.failures, 0 if self._report is None else self._report.failures)
        return WorkerState.FAILED if failures > FAILED_AFTER else WorkerState.STARTING
