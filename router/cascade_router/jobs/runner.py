"""Carries out the jobs of all cascades: it claims jobs that are due, makes their images like any request, and stores
the results.

Every router takes part. A job is leased to one attempt at a time. If a router dies, its jobs are due again within
seconds. Only the attempt that holds the lease can end a job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from cascade_api.names import CascadeRef
from cascade_api.reasons import Refusal

from ..requests import GenerateRequest, MadeImage, Receipt, RequestRefused
from ..service import ImageService, RouterDefect
from .records import TRY_AGAIN, Claim, JobState, JobUnreadable, read_body, result_of
from .store import LEASE_S, JobStore, JobStoreAway

log = structlog.get_logger(__name__)

IDLE_S: Final = 0.5
"""How often a router looks for jobs that were submitted elsewhere."""
AT_ONCE: Final = 16
"""Most jobs of one cascade on which one router works at the same time."""
AGAIN_S: Final = 1.0
"""Pause before another attempt."""
ATTEMPTS: Final = 10
"""Most attempts of a job whose model fails."""
STORE_AGAIN_S: Final = 0.2
"""Pause before the end of a job is stored again if Redis did not answer."""
Write = Callable[[MadeImage], Mapping[str, Any]]
"""Makes the description of how an image was made from an answer."""


class JobRunner:
    """One router's part of the work.

    Args:
        write: gives an answer the form in which it is stored.
        explain: gives a refusal the form in which it is stored and returned to clients.
    """

    def __init__(
        self,
        *,
        service: ImageService,
        store: JobStore,
        write: Write,
        explain: Callable[[RequestRefused], Mapping[str, Any]],
    ) -> None:
        self._service = service
        self._store = store
        self._write = write
        self._explain = explain
        self._woken = asyncio.Event()
        self._attempts: dict[CascadeRef, set[asyncio.Task[None]]] = {}

    def wake(self) -> None:
        """Look for jobs now, since one was submitted here."""
        self._woken.set()

    async def run(self) -> None:
        """Work on jobs until cancelled; jobs under way are then given back."""
        try:
            while True:
                self._woken.clear()
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._woken.wait()
        finally:
            attempts = [attempt for of_one in self._attempts.values() for attempt in of_one]
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _look(self) -> None:
        if self._service.draining:
            return
        for runtime in list(self._service.plans.runtimes):
            attempts = self._attempts.setdefault(runtime.ref, set())
            room = AT_ONCE - len(attempts)
            if room <= 0:
                continue
            # A failure for one cascade must not affect the others.
            with contextlib.suppress(JobStoreAway):
                await self._take(runtime.ref, attempts, room)

    async def _take(self, ref: CascadeRef, attempts: set[asyncio.Task[None]], room: int) -> None:
        for job in await self._store.due(ref, count=room):
            claim = await self._store.claim(ref, job)
            if claim is not None:
                attempt = asyncio.ensure_future(self._attempt(ref, claim))
                attempts.add(attempt)
                attempt.add_done_callback(attempts.discard)
                attempt.add_done_callback(lambda _: self._woken.set())

    async def _attempt(self, ref: CascadeRef, claim: Claim) -> None:
        """One attempt at a job; it ends if the lease is lost."""
        making = asyncio.ensure_future(self._make(ref, claim))
        leased = asyncio.ensure_future(self._hold_lease(ref, claim))
        try:
            await asyncio.wait({making, leased}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                await making
        except asyncio.CancelledError:
            making.cancel()
            with contextlib.suppress(JobStoreAway):
                await self._store.give_back(ref, claim, after_s=0)
            raise
        except JobStoreAway:
            log.warning("the end of a job could not be stored; the router will try again", job=claim.id)
        finally:
            making.cancel()
            leased.cancel()

    async def _hold_lease(self, ref: CascadeRef, claim: Claim) -> None:
        """Renew the lease until another attempt has the job, or the job has ended."""
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(JobStoreAway):
                if not await self._store.renew(ref, claim):
                    return

    async def _make(self, ref: CascadeRef, claim: Claim) -> None:
        try:
            request = self._read(ref, claim)
            with await self._service.generate([request], protocol="job") as delivery:
                image, result = delivery.pack(self._pack)
                await self._end(ref, claim, JobState.SUCCEEDED, result, image)
            return
        except JobStoreAway:
            raise
        except RequestRefused as refused:
            if refused.reason in TRY_AGAIN and not (refused.reason is Refusal.MODEL_FAILED and claim.token >= ATTEMPTS):
                await self._store.give_back(ref, claim, after_s=refused.retry_after_s or AGAIN_S)
                return
            result = result_of(self._explain(refused))
        except RouterDefect as failed:
            result = result_of(self._explain(RequestRefused(Refusal.MODEL_FAILED, str(failed))))
        except Exception:
            # Data in Redis that causes an error now would cause it at every attempt.
            log.exception("a job cannot be carried out", job=claim.id)
            why = RequestRefused(Refusal.INVALID, "the job cannot be carried out; submit it again")
            result = result_of(self._explain(why))
        await self._end(ref, claim, JobState.FAILED, result, b"")

    def _pack(self, answers: Sequence[MadeImage]) -> tuple[bytes, bytes]:
        """The image of a job, and how it was made."""
        (answer,) = answers
        return bytes(answer.image.encoded), result_of(self._write(answer))

    async def _end(self, ref: CascadeRef, claim: Claim, state: JobState, result: bytes, image: bytes) -> None:
        ended = await self._finish(ref, claim, state, result, image)
        if ended is None:
            log.info("the job had already ended", job=claim.id)
        elif ended is not state:
            log.warning("no room to store the image of a job", job=claim.id, bytes=len(image))

    async def _finish(
        self, ref: CascadeRef, claim: Claim, state: JobState, result: bytes, image: bytes
    ) -> JobState | None:
        """Store the end of a job; if Redis does not answer, try until the job's deadline, so that no work is lost."""
        no_room = RequestRefused(
            Refusal.STORE_FULL,
            f"the image was made, but there is no room to keep its {len(image)} bytes; "
            "CASCADE_ROUTER_JOB_BYTES_LIMIT and Redis's maxmemory say how much there is",
        )
        loop = asyncio.get_running_loop()
        until = loop.time() + max(claim.left_s, LEASE_S)
        while True:
            try:
                return await self._store.finish(
                    ref, claim, state, result, image=image, no_room=result_of(self._explain(no_room))
                )
            except JobStoreAway:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(STORE_AGAIN_S)

    def _read(self, ref: CascadeRef, claim: Claim) -> GenerateRequest:
        """The request of a job. Raises RequestRefused."""
        if claim.left_s <= 0:
            raise RequestRefused(Refusal.DEADLINE_EXCEEDED, "the job's deadline passed before its image could be made")
        try:
            return read_body(claim, model=f"{ref.namespace}.{ref.name}", receipt=Receipt(at=self._service.clock()))
        except JobUnreadable as error:
            log.error("not a job", job=claim.id, why=str(error))
            raise RequestRefused(Refusal.INVALID, "the job cannot be read; hand it in again") from None
