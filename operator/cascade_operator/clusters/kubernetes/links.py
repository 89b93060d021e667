"""Links to the agents of pods: each agent is told what its pod is to host, and says what it hosts.

One task for each pod waits until its agent reports a change, or until something else is to be told. So a change is
known at once, and an idle worker is asked twice a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from ...agent_reports import AgentFailed, AgentRefused, Report
from ...agents import AgentClient

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger(__name__)

RETRY_S: Final = 0.5
"""Pause before an agent that did not answer is asked again."""
FIRST_ANSWER_S: Final = 2.0
"""The longest time that the first answers are waited for."""
KEPT_S: Final = 5.0
"""For this long, what an agent last reported still counts if it does not answer: a busy machine is not a dead one."""


@dataclass(frozen=True)
class Told:
    """What the agent of a pod is told, and where; ``document`` is None as long as there is nothing to tell."""

    worker: str
    url: str
    key: str = field(repr=False)
    document: Mapping[str, Any] | None = None


class Links:
    """The links to all agents, by the uid of their pod."""

    def __init__(
        self,
        *,
        changed: Callable[[], None],
        refused: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``changed`` is called whenever a report differs from the last one, ``refused`` with the uid of a pod and a
        message when its agent cannot host what it is told; ``clock`` is in seconds."""
        self._changed = changed
        self._refused = refused
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._links: dict[str, _Link] = {}

    def keep(self, wanted: Mapping[str, Told]) -> None:
        """Have exactly these links, and tell each agent what it is to host if that differs from what it was told."""
        for uid in self._links.keys() - wanted.keys():
            self._links.pop(uid).end()
        for uid, told in wanted.items():
            link = self._links.get(uid)
            if link is None:
                refused = functools.partial(self._refused, uid)
                self._links[uid] = _Link(self._connected(), told, self._changed, refused, self._clock)
            else:
                link.tell(told)

    async def settle(self) -> None:
        """Give agents that were never asked before a moment to answer: an operator that has just started must not take
        workers that serve for workers that start."""
        new = [link for link in self._links.values() if not link.tried.is_set()]
        if new:
            await asyncio.wait([asyncio.ensure_future(link.tried.wait()) for link in new], timeout=FIRST_ANSWER_S)
        for link in new:
            link.tried.set()

    def reports(self) -> dict[str, Report]:
        """What agents say, by the uid of their pod; agents that do not answer are not among them."""
        return {uid: link.report for uid, link in self._links.items() if link.report is not None}

    async def close(self) -> None:
        """End all links; what agents host stays."""
        tasks = [link.end() for link in self._links.values()]
        self._links = {}
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            # Every agent has a connection of its own that waits, so their number has no limit.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


class _Link:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        told: Told,
        changed: Callable[[], None],
        refused: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._told = told
        self._changed = changed
        self._refused = refused
        self._clock = clock
        self._woken = asyncio.Event()
        self._silent_since_s: float | None = None
        self._problem = ""
        self.tried = asyncio.Event()
        """Set when the agent has answered, or failed to, for the first time."""
        self.report: Report | None = None
        """What it said last; None if it has not answered for `KEPT_S`."""
        self._task = asyncio.create_task(self._run(), name=f"link-{told.worker}")

    def tell(self, told: Told) -> None:
        """Tell the agent this from now on."""
        if told != self._told:
            self._told = told
            self._woken.set()

    def end(self) -> asyncio.Task[None]:
        """End the link; returns the task that ends."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._talk(self._told)
            except AgentFailed as error:
                self._missed(str(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), RETRY_S)

    async def _talk(self, told: Told) -> None:
        """Tell the agent what to host, and listen until it is to be told something else; raises AgentFailed."""
        client = AgentClient(self._session, told.url, key=told.key)
        report = await self._answer(client, told)
        while True:
            self._heard(report)
            hearing = asyncio.ensure_future(client.next_report(report))
            waking = asyncio.ensure_future(self._woken.wait())
            try:
                await asyncio.wait([hearing, waking], return_when=asyncio.FIRST_COMPLETED)
                if waking.done():
                    return
                report = hearing.result()
            finally:
                for task in (hearing, waking):
                    task.cancel()
                await asyncio.gather(hearing, waking, return_exceptions=True)

    async def _answer(self, client: AgentClient, told: Told) -> Report:
        """What the agent says to what it is told; if it cannot host that, what it hosts instead."""
        if told.document is not None:
            try:
                return await client.host(told.document)
            except AgentRefused as error:
                log.warning("an agent refuses what it is told", worker=told.worker, problem=str(error))
                self._refused(str(error))
        return await client.report()

    def _heard(self, report: Report) -> None:
        self._silent_since_s = None
        self._problem = ""
        self.tried.set()
        if report != self.report:
            self.report = report
            self._changed()

    def _missed(self, problem: str) -> None:
        self.tried.set()
        now = self._clock()
        if self._silent_since_s is None:
            self._silent_since_s = now
        if problem != self._problem:
            log.info("an agent does not answer", worker=self._told.worker, problem=problem)
            self._problem = problem
        if self.report is not None and now - self._silent_since_s > KEPT_S:
            self.report = None
            self._changed()
