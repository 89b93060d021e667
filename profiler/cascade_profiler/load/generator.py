"""The open loop: each request is sent at its arrival time, whether or not earlier ones have been answered.

The number of requests in flight is limited; requests above the limit are counted and not sent.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from cascade_api.plan import Plan

from .client import ConnectionLost, NoAnswer, RefusedByService, Reply
from .ledger import Ledger, Outcome, OutcomeKind

PROGRESS_EVERY_S: Final = 2.0
PLAN_EVERY_S: Final = 0.5
RETRY_AFTER_S: Final = 1.0
"""Pause before a second try, because a client hears of the end of a call before the end of its connection."""


class PromptService(Protocol):
    """A service that answers prompts."""

    async def ask(self, request_id: str, prompt: str, *, size: str = "", again: bool = False) -> Reply: ...


@dataclass(frozen=True)
class Load:
    """The load to generate: arrivals in seconds from the start, prompts, sizes, and the most requests in flight.

    A size may be empty: the default.
    """

    arrivals: Iterator[float]
    prompts: Iterator[str]
    sizes: Iterator[str]
    max_in_flight: int
    retry_lost: bool


class Generator:
    """One run of a load against a service."""

    def __init__(
        self,
        load: Load,
        *,
        service: PromptService,
        ledger: Ledger,
        current_plan: Callable[[], Awaitable[Plan | None]],
        answered: Callable[[str, Reply], None],
        progress: Callable[[float], None],
    ) -> None:
        """``answered`` is called with each prompt and its reply, ``progress`` every 2 s with the seconds so far."""
        self._load = load
        self._service = service
        self._ledger = ledger
        self._current_plan = current_plan
        self._answered = answered
        self._progress = progress
        self._planned: dict[str, float] | None = None
        self._stopped = asyncio.Event()
        self._clock = asyncio.get_running_loop().time

    def stop(self) -> None:
        """Send no more requests; those in flight are still waited for."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    async def run(self) -> None:
        """Send all requests and wait for the end of each."""
        began = self._clock()
        helpers = [asyncio.create_task(self._follow_plan()), asyncio.create_task(self._report(began))]
        in_flight: set[asyncio.Task[None]] = set()
        try:
            for offset in self._load.arrivals:
                if await self._stopped_before(began + offset):
                    break
                prompt, size = next(self._load.prompts), next(self._load.sizes)
                if len(in_flight) >= self._load.max_in_flight:
                    self._ledger.unsent += 1
                    continue
                task = asyncio.create_task(self._one(uuid.uuid4().hex, prompt, size, began + offset))
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)
            await asyncio.gather(*in_flight)
        finally:
            for helper in (*helpers, *in_flight):
                helper.cancel()
            await asyncio.gather(*helpers, *in_flight, return_exceptions=True)

    async def _stopped_before(self, at: float) -> bool:
        """Wait until a time; returns True at once if the run is stopped."""
        try:
            async with asyncio.timeout(max(0.0, at - self._clock())):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    async def _one(self, request_id: str, prompt: str, size: str, intended: float) -> None:
        self._ledger.send(request_id, behind_s=self._clock() - intended)
        outcome = await self._ask(request_id, prompt, size, intended, again=False)
        if outcome.kind is OutcomeKind.LOST and self._load.retry_lost:
            self._ledger.retried += 1
            await asyncio.sleep(RETRY_AFTER_S)
            outcome = await self._ask(request_id, prompt, size, intended, again=True)
        self._ledger.settle(request_id, outcome)

    async def _ask(self, request_id: str, prompt: str, size: str, intended: float, *, again: bool) -> Outcome:
        try:
            reply = await self._service.ask(request_id, prompt, size=size, again=again)
        except RefusedByService as refusal:
            return Outcome(OutcomeKind.REFUSED, self._clock() - intended, status=refusal.status, detail=refusal.detail)
        except ConnectionLost as loss:
            return Outcome(OutcomeKind.LOST, self._clock() - intended, detail=str(loss))
        except NoAnswer as silence:
            return Outcome(OutcomeKind.SILENT, self._clock() - intended, detail=str(silence))
        latency_s = self._clock() - intended
        if reply.request_id != request_id:
            return Outcome(OutcomeKind.SILENT, latency_s, detail=f"got the answer to {reply.request_id!r}")
        self._answered(prompt, reply)
        if self._planned is not None:
            self._ledger.plan_in_force(self._planned)
        return Outcome(OutcomeKind.ANSWERED, latency_s, route=reply.route)

    async def _follow_plan(self) -> None:
        while True:
            plan = await self._current_plan()
            if plan is not None:
                self._planned = plan.planned_shares
            await asyncio.sleep(PLAN_EVERY_S)

    async def _report(self, began: float) -> None:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            self._progress(self._clock() - began)
