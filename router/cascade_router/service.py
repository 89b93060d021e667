"""What every protocol calls: finds the cascade, counts, serves, and ends each with an answer or a refusal."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import structlog

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from . import metrics, tracing
from .deliveries import Delivery, Made
from .engine import Passage, Preview
from .image_bytes import COPIES_GRPC, COPIES_HTTP, ImageBytes, NoRoom, Room, needed
from .plans import Plans
from .queue import RedisAway
from .reporting import DemandCounter
from .requests import Answer, GenerateRequest, Refused, invalid, unique_of
from .runtime import CascadeRuntime
from .tenants import Tenants

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

UNKNOWN_CASCADE: Final = "none"
ONLY_HTTP: Final = ("http", "http-stream")
"""Protocols whose answers are written in pieces."""
ON_ITS_WAY_S: Final = 0.3
"""How long after it was told to stop a router still looks for requests that were sent before."""


class Failed(Exception):
    """A defect of the router kept it from serving a request; the details are in the log under the request id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"internal error; the router's log has it under request id {request_id}")
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class _Received:
    """A request in hand; its ``received`` and ``deadline_s`` are set."""

    runtime: CascadeRuntime
    request: GenerateRequest
    passage: Passage

    @property
    def deadline(self) -> float:
        return (self.request.received or 0.0) + (self.request.deadline_s or 0.0)


class Service:
    """The router's whole work on single requests."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        plans: Plans,
        rng: random.Random,
        demand: DemandCounter,
        tenants: Tenants,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.plans = plans
        self.tenants = tenants
        self._rng = rng
        self._demand = demand
        self._clock = clock
        self.image_bytes = ImageBytes(settings.image_bytes_limit, clock=clock)
        metrics.IMAGE_BYTES.set_function(lambda: self.image_bytes.held)
        self._in_hand = 0
        metrics.IN_HAND.set_function(lambda: self._in_hand)
        self._idle = asyncio.Event()
        self._idle.set()
        self.starting = False
        """Health is told already, but nobody listens to clients yet."""
        self.draining = False
        """No new connections; what comes over the old ones is served until they are gone."""
        self._closed = False

    def why_not_ready(self) -> str | None:
        """Why this router should get no requests now; None where it should."""
        return self._why_closed() or self.plans.why_not_ready()

    def why_not_started(self) -> str | None:
        """Why no request at all should be sent here, for whichever cascade; None where they may be."""
        return self._why_closed() or self.plans.why_not_started()

    def _why_closed(self) -> str | None:
        if self.starting:
            return "the router does not listen yet"
        return "the router is shutting down" if self.draining else None

    async def generate(
        self, requests: Sequence[GenerateRequest], *, protocol: str, preview: Preview | None = None
    ) -> Delivery:
        """Serve the valid requests of one call together; the first that fails withdraws the others.

        A call with an idempotency key is the only one of its tenant and cascade with it until its images are made.
        Whoever gets the images says how sending them ended.

        Args:
            preview: called with the light image of a request that escalates.

        Raises:
            Refused: no images, and why.
            Failed: a defect; already logged.
        """
        received: list[_Received] = []
        room = None
        try:
            received += await self._receive(requests, protocol)
            async with self._only_one(received[0]):
                room = await self._room(received, copies=COPIES_HTTP if protocol in ONLY_HTTP else COPIES_GRPC)
                made = await _together([self._made(each, protocol, preview) for each in received])
        except BaseException as error:
            if room is not None:
                room.give_back()
            refused = error if isinstance(error, Refused) else Refused(Refusal.CANCELLED, "the client went away")
            broken = isinstance(error, Exception) and not isinstance(error, Refused)
            for each in received:
                if not broken:
                    self._refused(each.runtime, each.request, refused)
                self._end()
            if broken:
                log.exception("request failed", request=requests[0].id, model=requests[0].model)
                raise Failed(requests[0].id) from error
            raise
        return Delivery(made, room=room, clock=self._clock, end=self._delivered)

    async def drain(self, timeout_s: float) -> bool:
        """Finish what is in hand and what is still on its way here; False, and no more, after ``timeout_s``."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._idle.wait()
                    await asyncio.sleep(ON_ITS_WAY_S)
                    if self._in_hand == 0:
                        return True
        except TimeoutError:
            self._closed = True
            return False

    def reject(self, refused: Refused) -> None:
        """Count a request that was not even valid."""
        metrics.of(metrics.REFUSALS, UNKNOWN_CASCADE, str(refused.reason)).inc()

    def _find(self, model: str) -> CascadeRuntime:
        if self._closed:
            raise Refused(Refusal.SHUTTING_DOWN, "the router is shutting down; try another", retry_after_s=0.0)
        return self.plans.find(model)

    async def _receive(self, requests: Sequence[GenerateRequest], protocol: str) -> list[_Received]:
        """Count the requests of one call, which are in hand from now on. Raises Refused, which is counted already."""
        now = self._clock()
        requests = [replace(each, received=now if each.received is None else each.received) for each in requests]
        self._in_hand += len(requests)
        self._idle.clear()
        try:
            runtime = self._find(requests[0].model)
            await self.tenants.admit(requests[0].tenant, images=len(requests))
        except BaseException as error:
            if isinstance(error, Refused):
                self._refused(None, requests[0], error)
            for _ in requests:
                self._end()
            raise
        return [self._counted(runtime, each, protocol) for each in requests]

    def _counted(self, runtime: CascadeRuntime, request: GenerateRequest, protocol: str) -> _Received:
        runtime.tally.received += 1
        metrics.of(metrics.REQUESTS, runtime.name, protocol).inc()
        self._demand.add(runtime.ref, at_s=time.time())
        allowed_s = request.deadline_s or runtime.plan.objective_s
        allowed_s = allowed_s if request.call_s is None else min(allowed_s, request.call_s)
        request = replace(request, deadline_s=allowed_s)
        return _Received(runtime, request, Passage(runtime, request, coin=self._rng.random()))

    @asynccontextmanager
    async def _only_one(self, received: _Received) -> AsyncIterator[None]:
        """Hold the idempotency key of a call, if it has one, inside the block. Raises Refused."""
        request = received.request
        if not request.idempotency_key:
            yield
            return
        holding = received.runtime.queue.hold_request(unique_of(request.idempotency_key, tenant=request.tenant))
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(received.deadline - self._clock()):
                    held = await stack.enter_async_context(holding)
            except RedisAway:
                raise _key_refused(
                    Refusal.STORE_AWAY,
                    "keys are kept in Redis, which cannot be reached now; try again, or without a key",
                ) from None
            except TimeoutError:
                raise _key_refused(
                    Refusal.DEADLINE_EXCEEDED, "a router that may have died still holds this key; try again"
                ) from None
            if not held:
                raise _key_refused(
                    Refusal.DUPLICATE, "a request with this key is being served; wait for it, or choose a new key"
                )
            yield

    async def _room(self, received: Sequence[_Received], *, copies: float) -> Room:
        """Room for the images of a call. Raises Refused."""
        for each in received:
            each.passage.arrive(self._in_hand)
        runtime, request = received[0].runtime, received[0].request
        image, deadline = runtime.plan.image, received[0].deadline
        size = needed(request.form, copies=copies, width=image.width, height=image.height, images=len(received))
        try:
            return await self.image_bytes.take(
                size, band=request.band, deadline=deadline, start_by=deadline - runtime.state.quickest_s()
            )
        except NoRoom as no_room:
            limit = f"{self.settings.image_bytes_limit} bytes of images (CASCADE_ROUTER_IMAGE_BYTES_LIMIT)"
            if no_room.expected_wait_s is None:
                raise invalid(
                    "n", f"{size} bytes are needed for this, and the router holds {limit}; ask for fewer images"
                ) from None
            raise Refused(
                Refusal.QUEUE_FULL,
                f"the router holds its {limit}; ask again later, or another router",
                retry_after_s=no_room.expected_wait_s,
            ) from None

    async def _made(self, received: _Received, protocol: str, preview: Preview | None) -> Made:
        runtime, request = received.runtime, received.request
        with tracing.span(
            "generate",
            kind="SERVER",
            parent=request.trace,
            name=runtime.name,
            request=request.id,
            protocol=protocol,
            band=request.band,
        ) as span:
            answer = await self._traced(received.passage, preview, span)
        return Made(runtime, request, answer, received.deadline, made_at=self._clock())

    async def _traced(self, passage: Passage, preview: Preview | None, span: tracing.Span) -> Answer:
        try:
            answer = await passage.answer(preview)
        except Refused as refused:
            tracing.note(span, refusal=str(refused.reason))
            raise
        tracing.note(
            span,
            route=str(answer.route),
            variant=answer.variant,
            hardness=answer.hardness,
            confidence=answer.confidence,
        )
        return answer

    def _end(self) -> None:
        self._in_hand -= 1
        if self._in_hand == 0:
            self._idle.set()

    def _delivered(self, made: Made, refused: Refused | None) -> None:
        """What became of an image that was made."""
        self._end()
        if refused is not None:
            self._refused(made.runtime, made.request, refused)
            return
        runtime, request, answer = made.runtime, made.request, made.answer
        now = self._clock()
        latency_s = now - (request.received or 0.0)
        late = now > made.deadline
        route = str(answer.route)
        runtime.tally.answered(answer.route, latency_s=latency_s, late=late, now=now)
        metrics.of(metrics.ANSWERS, runtime.name, route, answer.variant).inc()
        metrics.of(metrics.LATENCY, runtime.name, route).observe(latency_s)
        if late:
            metrics.of(metrics.VIOLATIONS, runtime.name).inc()
        if self.settings.log_prompts:
            log.info(
                "answered",
                request=request.id,
                cascade=runtime.name,
                route=route,
                variant=answer.variant,
                latency_s=round(latency_s, 4),
                prompt=request.prompt.text,
            )

    def _refused(self, runtime: CascadeRuntime | None, request: GenerateRequest, refused: Refused) -> None:
        name = UNKNOWN_CASCADE if runtime is None else runtime.name
        metrics.of(metrics.REFUSALS, name, str(refused.reason)).inc()
        if runtime is not None and runtime.tally.refused(refused.reason):
            metrics.of(metrics.VIOLATIONS, name).inc()
        log.info(
            "refused",
            request=request.id,
            cascade=name,
            reason=str(refused.reason),
            latency_s=round(self._clock() - (request.received or 0.0), 4),
            **self._prompt(request),
        )

    def _prompt(self, request: GenerateRequest) -> dict[str, str]:
        return {"prompt": request.prompt.text} if self.settings.log_prompts else {}


def _key_refused(reason: Refusal, why: str) -> Refused:
    again_s = None if reason is Refusal.DUPLICATE else 1.0
    return Refused(reason, f"idempotency_key: {why}", field="idempotency_key", retry_after_s=again_s)


async def _together(works: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all; the first that fails cancels the others."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
