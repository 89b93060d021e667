"""What every protocol calls: finds the cascade, counts, serves, and ends each with an answer or a refusal."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

import structlog

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from . import metrics, tracing
from .engine import Preview, generate
from .plans import Plans
from .queue import StoreAway
from .reporting import DemandCounter
from .requests import Answer, GenerateRequest, Refused, unique_of
from .runtime import CascadeRuntime
from .tenants import Tenants
from .timeouts import timeout

log = structlog.get_logger(__name__)

UNKNOWN_CASCADE: Final = "none"
ON_ITS_WAY_S: Final = 0.3
"""How long after it was told to stop a router still looks for requests that were sent before."""


class Failed(Exception):
    """A defect of the router kept it from serving a request; the details are in the log under the request id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"internal error; the router's log has it under request id {request_id}")
        self.request_id = request_id


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
        self._in_hand = 0
        metrics.IN_HAND.set_function(lambda: self._in_hand)
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        """No new connections; what comes over the old ones is served until they are gone."""
        self._closed = False

    def why_not_ready(self) -> str | None:
        """Why this router should get no requests now; None where it should."""
        return self._why_draining() or self.plans.why_not_ready()

    def why_not_started(self) -> str | None:
        """Why no request at all should be sent here, for whichever cascade; None where they may be."""
        return self._why_draining() or self.plans.why_not_started()

    def _why_draining(self) -> str | None:
        return "the router is shutting down" if self.draining else None

    async def generate(self, request: GenerateRequest, *, protocol: str, preview: Preview | None = None) -> Answer:
        """Serve one valid request; ``preview`` is called with the light image of one that escalates.

        Raises:
            Refused: no image, and why.
            Failed: a defect; already logged.
        """
        began = self._clock()
        try:
            runtime = self._find(request.model)
            self.tenants.admit(request.tenant)
        except Refused as refused:
            self._refused(None, request, refused, began)
            raise
        runtime.tally.received += 1
        metrics.of(metrics.REQUESTS, runtime.name, protocol).inc()
        self._demand.add(runtime.ref, at_s=time.time())
        allowed_s = request.deadline_s or runtime.plan.objective_s
        request = replace(request, deadline_s=allowed_s if request.call_s is None else min(allowed_s, request.call_s))
        self._begin()
        try:
            if self._in_hand > self.settings.request_limit:
                raise Refused(Refusal.QUEUE_FULL, "the router has its hands full; ask again later", retry_after_s=1.0)
            with tracing.span(
                "generate",
                kind="SERVER",
                parent=request.trace,
                name=runtime.name,
                request=request.id,
                protocol=protocol,
                band=request.band,
            ) as span:
                answer = await self._traced(runtime, request, preview, span)
        except Refused as refused:
            self._refused(runtime, request, refused, began)
            raise
        except asyncio.CancelledError:
            self._refused(runtime, request, Refused(Refusal.CANCELLED, "the client went away"), began)
            raise
        except Exception as error:
            log.exception("request failed", request=request.id, cascade=runtime.name)
            raise Failed(request.id) from error
        finally:
            self._end()
        self._answered(runtime, request, answer)
        return answer

    async def generate_all(
        self, requests: Sequence[GenerateRequest], *, protocol: str, preview: Preview | None = None
    ) -> list[Answer]:
        """Serve the images of one call together; the first that fails withdraws the others.

        A call with an idempotency key is the only one of its tenant and cascade with this key meanwhile. ``preview`` is
        for calls of one image.

        Raises:
            Refused, Failed: as `generate`.
        """
        first = requests[0]
        if not first.idempotency_key:
            return await self._together(requests, protocol=protocol, preview=preview)
        began = self._clock()
        async with AsyncExitStack() as held:
            await self._hold_key(first, held)
            waited_s = self._clock() - began
            left = [self._shortened(request, waited_s) for request in requests]
            answers = await self._together(left, protocol=protocol, preview=preview)
        return [replace(answer, latency_s=answer.latency_s + waited_s) for answer in answers]

    async def _hold_key(self, request: GenerateRequest, held: AsyncExitStack) -> None:
        """Hold the request's idempotency key until ``held`` ends. Raises Refused, which is then counted already."""
        began, runtime = self._clock(), None
        self._begin()
        try:
            runtime = self._find(request.model)
            key = unique_of(request.idempotency_key, tenant=request.tenant)
            if not await held.enter_async_context(runtime.queue.hold_request(key)):
                raise Refused(
                    Refusal.DUPLICATE,
                    "idempotency_key: a request with this key is being served; wait for its end, or choose a new key",
                    field="idempotency_key",
                )
        except StoreAway:
            refused = Refused(
                Refusal.STORE_AWAY,
                "idempotency_key: keys are kept in Redis, which cannot be reached now; try again, or without a key",
                field="idempotency_key",
                retry_after_s=1.0,
            )
            self._refused(runtime, request, refused, began)
            raise refused from None
        except Refused as refused:
            self._refused(runtime, request, refused, began)
            raise
        except asyncio.CancelledError:
            self._refused(runtime, request, Refused(Refusal.CANCELLED, "the client went away"), began)
            raise
        finally:
            self._end()

    def _shortened(self, request: GenerateRequest, waited_s: float) -> GenerateRequest:
        """The request with a deadline that counts from its receipt, ``waited_s`` ago."""
        allowed_s = request.deadline_s or self._find(request.model).plan.objective_s
        if request.call_s is not None:
            allowed_s = min(allowed_s, request.call_s)
        return replace(request, call_s=allowed_s - waited_s)

    async def _together(
        self, requests: Sequence[GenerateRequest], *, protocol: str, preview: Preview | None
    ) -> list[Answer]:
        if len(requests) == 1:
            return [await self.generate(requests[0], protocol=protocol, preview=preview)]
        tasks = [asyncio.ensure_future(self.generate(request, protocol=protocol)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def drain(self, timeout_s: float) -> bool:
        """Finish what is in hand and what is still on its way here; False, and no more, after ``timeout_s``."""
        self.draining = True
        try:
            async with timeout(timeout_s):
                while True:
                    await self._idle.wait()
                    await asyncio.sleep(ON_ITS_WAY_S)
                    if self._in_hand == 0:
                        return True
        except (asyncio.TimeoutError, TimeoutError):
            self._closed = True
            return False

    def reject(self, refused: Refused) -> None:
        """Count a request that was not even valid."""
        metrics.of(metrics.REFUSALS, UNKNOWN_CASCADE, str(refused.reason)).inc()

    def _find(self, model: str) -> CascadeRuntime:
        if self._closed:
            raise Refused(Refusal.SHUTTING_DOWN, "the router is shutting down; try another", retry_after_s=0.0)
        return self.plans.find(model)

    async def _traced(
        self, runtime: CascadeRuntime, request: GenerateRequest, preview: Preview | None, span: tracing.Span
    ) -> Answer:
        try:
            answer = await self._run(runtime, request, preview)
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

    async def _run(self, runtime: CascadeRuntime, request: GenerateRequest, preview: Preview | None) -> Answer:
        return await generate(
            runtime, request, coin=self._rng.random(), queue_limit=self.settings.queue_limit, preview=preview
        )

    def _begin(self) -> None:
        self._in_hand += 1
        self._idle.clear()

    def _end(self) -> None:
        self._in_hand -= 1
        if self._in_hand == 0:
            self._idle.set()

    def _answered(self, runtime: CascadeRuntime, request: GenerateRequest, answer: Answer) -> None:
        late = request.deadline_s is not None and answer.latency_s > request.deadline_s
        route = str(answer.route)
        runtime.tally.answered(answer.route, latency_s=answer.latency_s, late=late, now=self._clock())
        metrics.of(metrics.ANSWERS, runtime.name, route, answer.variant).inc()
        metrics.of(metrics.LATENCY, runtime.name, route).observe(answer.latency_s)
        if late:
            metrics.of(metrics.VIOLATIONS, runtime.name).inc()
        if self.settings.log_prompts:
            log.info(
                "answered",
                request=request.id,
                cascade=runtime.name,
                route=route,
                variant=answer.variant,
                latency_s=round(answer.latency_s, 4),
                prompt=request.prompt.text,
            )

    def _refused(
        self, runtime: CascadeRuntime | None, request: GenerateRequest, refused: Refused, began: float
    ) -> None:
        name = UNKNOWN_CASCADE if runtime is None else runtime.name
        metrics.of(metrics.REFUSALS, name, str(refused.reason)).inc()
        if runtime is not None and runtime.tally.refused(refused.reason):
            metrics.of(metrics.VIOLATIONS, name).inc()
        log.info(
            "refused",
            request=request.id,
            cascade=name,
            reason=str(refused.reason),
            latency_s=round(self._clock() - began, 4),
            **self._prompt(request),
        )

    def _prompt(self, request: GenerateRequest) -> dict[str, str]:
        return {"prompt": request.prompt.text} if self.settings.log_prompts else {}
