"""The one place where requests are admitted: each gets its cascade and its absolute deadline, or is refused.

All requests of a call are admitted together, in three steps, each of which may refuse them:

1. `Admission.admit` checks that this router takes requests, that it serves the cascade, that the tenant does not have
   more than its share of the work in hand, and that it may have this many images now. From here on a request has one
   deadline, and no code counts seconds from its receipt any more.
2. `Admission.only_one` checks that no other call with the same idempotency key is being served.
3. `Admission.room` reserves memory for the images before any of them is made.

Jobs pay at their tenant's rate, and get their deadline, when they are submitted (`serving.http_jobs`). They come here
when a router begins with them. So what a new kind of request pays, and by when it is due, is decided there as well.

A new kind of request, for example a tier with a deadline or a rate of its own, is handled in the first step, from the
fields of its `GenerateRequest`. What follows after the three steps belongs to one cascade: the first decision of the
request's machine, `cascade.decisions.admit`, is whether the request can be served in time after the work ahead of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from cascade_api.reasons import Refusal

from .cascade.choosing import why_no_variant
from .fair_shares import CONGESTED
from .image_bytes import ImageBytes, NoRoom, Room, needed
from .queue import RedisAway
from .requests import GUIDANCE, STEPS, GenerateRequest, RequestRefused, invalid, unique_of
from .runtime import CascadeRuntime
from .tenants import Tenants


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that was admitted."""

    runtime: CascadeRuntime
    request: GenerateRequest
    deadline: float
    """When its image must have been sent, in seconds on the router's monotonic clock."""

    @property
    def received(self) -> float:
        """When it arrived, by the same clock."""
        return self.request.receipt.at


class InHand:
    """The requests of all cascades that a router has in hand: from their receipt until their end is counted."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Count the requests of one call as in hand inside the block."""
        self.count += count
        self._none.clear()
        try:
            yield
        finally:
            self.count -= count
            if self.count == 0:
                self._none.set()

    async def none(self) -> None:
        """Wait until no request is in hand."""
        await self._none.wait()


class Admission:
    """Admits requests.

    Args:
        find: gives the cascade of a model name; raises RequestRefused.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], CascadeRuntime],
        tenants: Tenants,
        image_bytes: ImageBytes,
        clock: Callable[[], float],
    ) -> None:
        self._find = find
        self._tenants = tenants
        self._image_bytes = image_bytes
        self._clock = clock
        self.closed = False
        """Whether the router ends, so that no more requests are admitted."""

    async def admit(self, requests: Sequence[GenerateRequest]) -> list[Admitted]:
        """Admit all requests of one call, or none. Raises RequestRefused."""
        if self.closed:
            raise RequestRefused(Refusal.SHUTTING_DOWN, "the router is shutting down; try another", retry_after_s=0.0)
        first = requests[0]
        runtime = self._find(first.model)
        check_wish(runtime, first)
        check_size(runtime, first)
        self._check_share(runtime, first.receipt.tenant)
        await self._tenants.take_images(first.receipt.tenant, len(requests))
        objective_s = runtime.plan.objective_s
        return [Admitted(runtime, each, each.receipt.deadline(each.within_s or objective_s)) for each in requests]

    def _check_share(self, runtime: CascadeRuntime, tenant: str) -> None:
        """Refuse a tenant that has its share of the work in hand, while there is more work than workers.

        Without tenants, and for jobs, there are no shares.
        """
        wait_s, image_s = runtime.state.congestion() if tenant else (0.0, 0.0)
        if wait_s > CONGESTED * image_s and runtime.shares.is_over(
            tenant, weight_of=self._tenants.weight_of, now=self._clock()
        ):
            raise RequestRefused(
                Refusal.RATE_LIMITED,
                f"tenant {tenant!r} has its share of the work in hand, and others want theirs; ask again later",
                retry_after_s=wait_s,
            )

    @contextmanager
    def work(self, call: Sequence[Admitted]) -> Iterator[None]:
        """Count the work of a call as its tenant's work in hand, inside the block."""
        runtime, first = call[0].runtime, call[0].request
        tenant, work_s = first.receipt.tenant, len(call) * runtime.state.work_s(first.wish, first.size)
        if not tenant:
            yield
            return
        runtime.shares.enter(tenant, work_s)
        try:
            yield
        finally:
            runtime.shares.leave(tenant, work_s, now=self._clock())

    @asynccontextmanager
    async def only_one(self, call: Sequence[Admitted]) -> AsyncIterator[None]:
        """Hold the idempotency key of a call, if it has one, inside the block. Raises RequestRefused."""
        runtime, request = call[0].runtime, call[0].request
        if not request.idempotency_key:
            yield
            return
        holding = runtime.queue.hold_request(unique_of(request.idempotency_key, tenant=request.receipt.tenant))
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(call[0].deadline - self._clock()):
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

    async def room(self, call: Sequence[Admitted], *, copies: float) -> Room:
        """Reserve memory for the images of a call, each held at most ``copies`` times. Raises RequestRefused."""
        runtime, request, deadline = call[0].runtime, call[0].request, call[0].deadline
        image = runtime.plan.image_of(request.size)
        size = needed(request.form, copies=copies, width=image.width, height=image.height, images=len(call))
        # What is given is held once for the call, and once more for each image while it is sent to a worker.
        size += sum(each.request.prompt.given.size for each in call if each.request.prompt.given) * 2
        try:
            return await self._image_bytes.take(
                size, band=request.band, deadline=deadline, start_by=deadline - runtime.state.quickest_s(request.size)
            )
        except NoRoom as no_room:
            limit = f"{self._image_bytes.limit} bytes of images (CASCADE_ROUTER_IMAGE_BYTES_LIMIT)"
            if no_room.expected_wait_s is None:
                raise invalid(
                    "n", f"{size} bytes are needed for this, and the router holds {limit}; ask for fewer images"
                ) from None
            raise RequestRefused(
                Refusal.QUEUE_FULL,
                f"the router holds its {limit}; ask again later, or another router",
                retry_after_s=no_room.expected_wait_s,
            ) from None


def check_wish(
    runtime: CascadeRuntime, request: GenerateRequest, *, among: Mapping[str, CascadeRuntime] | None = None
) -> None:
    """Raise RequestRefused if no variant of the plan has the settings and the abilities that a request needs.

    Of the cascades ``among``, it names those that could edit the image.
    """
    why = why_no_variant(runtime.plan, request.wish)
    if why is not None:
        setting, problem = why
        able = [name for name, each in (among or {}).items() if why_no_variant(each.plan, request.wish) is None]
        problem += f": {', '.join(sorted(able)[:8])}" if setting == "image" and able else ""
        raise invalid({"steps": STEPS, "guidance": GUIDANCE}.get(setting, setting), problem)


def check_size(runtime: CascadeRuntime, request: GenerateRequest) -> None:
    """Raise RequestRefused if the cascade does not offer the size that a request names."""
    offered = runtime.plan.sizes
    if request.size and request.size not in offered:
        raise invalid("size", f"{request.size[:20]!r} is not offered; leave it out or use {' or '.join(offered)}")


def _key_refused(reason: Refusal, why: str) -> RequestRefused:
    again_s = None if reason is Refusal.DUPLICATE else 1.0
    return RequestRefused(reason, f"idempotency_key: {why}", field="idempotency_key", retry_after_s=again_s)
