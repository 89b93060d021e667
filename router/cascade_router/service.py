"""What every protocol calls: it admits the requests of a call, has their images made, and hands them over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

import structlog

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from . import metrics, tracing
from .accounts import Accounts
from .admission import Admission, Admitted, InHand
from .bucket import Bucket
from .cascade.events import Arrived, Begun
from .deliveries import Delivery, Outcome, Undelivered, Unmade
from .engine import Passage, ShowPreview, hear
from .given_images import GivenImages
from .image_bytes import COPIES_GRPC, COPIES_HTTP, ImageBytes
from .moderation import Moderator
from .plans import Plans
from .pools.clients import GivenPixels
from .reporting import DemandCounter
from .requests import GenerateRequest, RequestRefused
from .tenants import Tenants

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

ONLY_HTTP: Final = ("http", "http-stream")
"""Protocols whose answers are written in pieces."""
ON_ITS_WAY_S: Final = 0.3
"""For this long after the signal to stop, a router still expects requests that were sent before it."""


class RouterDefect(Exception):
    """A defect of the router prevented an answer; the log has the details under the request id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"internal error; the router's log has it under request id {request_id}")
        self.request_id = request_id


class ImageService:
    """The router's whole work on single requests.

    Args:
        clock: monotonic seconds, by which protocols note when a call arrived.
    """

    def __init__(
        self,
        *,
        settings: RouterSettings,
        plans: Plans,
        rng: random.Random,
        demand: DemandCounter,
        tenants: Tenants,
        moderator: Moderator,
        bucket: Bucket,
        clock: Callable[[], float],
    ) -> None:
        self._moderator = moderator
        self.bucket = bucket
        self.settings = settings
        self.plans = plans
        self.tenants = tenants
        self.clock = clock
        self.accounts = Accounts(demand=demand, log_prompts=settings.log_prompts, clock=clock)
        self.image_bytes = ImageBytes(settings.image_bytes_limit, clock=clock)
        metrics.IMAGE_BYTES.set_function(lambda: self.image_bytes.held)
        self.given = GivenImages()
        self._in_hand = InHand()
        metrics.IN_HAND.set_function(lambda: self._in_hand.count)
        self._admission = Admission(find=plans.find, tenants=tenants, image_bytes=self.image_bytes, clock=clock)
        self._rng = rng
        self.starting = False
        """Whether health is already served, but clients are not."""
        self.draining = False
        """Whether new connections are refused; requests over the old ones are served until these are closed."""

    def why_not_ready(self) -> str | None:
        """Why this router should get no requests now; None if it should."""
        return self._why_closed() or self.plans.why_not_ready()

    def why_not_started(self) -> str | None:
        """Why no request of any cascade should be sent here; None if requests may be sent."""
        return self._why_closed() or self.plans.why_not_started()

    def _why_closed(self) -> str | None:
        if self.starting:
            return "the router does not listen yet"
        return "the router is shutting down" if self.draining else None

    async def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        protocol: str,
        preview: ShowPreview | None = None,
        partial: bool = False,
    ) -> Delivery:
        """Serve the valid requests of one call, and deliver their images together.

        A call with an idempotency key is the only one of its tenant and cascade with this key until its images are
        made. The caller must report on the delivery how sending ended.

        Args:
            preview: called with the light image of a request that escalates.
            partial: deliver also if only some of the images were made; otherwise the first that fails withdraws the
                others.

        Raises:
            RequestRefused: no images, and why.
            RouterDefect: a defect; already logged.
        """
        call: list[Admitted] = []
        with self._counted(requests, call), ExitStack() as held:
            async with self._begun(requests, call, held, protocol=protocol) as passages:
                make = self._try if partial else self._make
                outcomes = await _together([make(passage, protocol, preview) for passage in passages])
            if not any(isinstance(outcome, Undelivered) for outcome in outcomes):
                raise next(outcome.refused for outcome in outcomes if isinstance(outcome, Unmade))
            return self._deliver(outcomes, held.pop_all())
        raise AssertionError("the block above returns or raises")

    async def stream(
        self, requests: Sequence[GenerateRequest], *, protocol: str, preview: ShowPreview | None = None
    ) -> AsyncGenerator[Delivery | Unmade, None]:
        """Serve the valid requests of one call, and deliver each image as soon as it is made.

        The requests that got no image come last. Each delivery must have ended before the next one is asked for.

        Raises:
            RequestRefused: not a single image, and why.
            RouterDefect: a defect; already logged.
        """
        call: list[Admitted] = []
        unmade: list[Unmade] = []
        with self._counted(requests, call), ExitStack() as held:
            async with self._begun(requests, call, held, protocol=protocol) as passages:
                making = [asyncio.ensure_future(self._try(passage, protocol, preview)) for passage in passages]
                try:
                    for made in asyncio.as_completed(making):
                        outcome = await made
                        if isinstance(outcome, Unmade):
                            unmade.append(outcome)
                        else:
                            call.remove(outcome.admitted)
                            yield self._deliver([outcome], ExitStack())
                finally:
                    for task in making:
                        task.cancel()
            if len(unmade) == len(requests):
                raise unmade[0].refused
            for each in unmade:
                call.remove(each.admitted)
                self.accounts.refused(each.admitted, each.refused)
                yield each

    async def drain(self, timeout_s: float) -> bool:
        """Finish the requests in hand and those on their way here; False if that takes longer than ``timeout_s``."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._in_hand.none()
                    await asyncio.sleep(ON_ITS_WAY_S)
                    if self._in_hand.count == 0:
                        return True
        except TimeoutError:
            self._admission.closed = True
            return False

    @contextmanager
    def _counted(self, requests: Sequence[GenerateRequest], call: Sequence[Admitted]) -> Iterator[None]:
        """If the block fails, count the end of the requests in ``call``, or of the whole call if none was admitted."""
        try:
            yield
        except RequestRefused as refused:
            if not call:
                self.accounts.turned_away(requests[0], refused)
            self._refuse(call, refused)
            raise
        except Exception as error:
            log.exception("request failed", request=requests[0].id, model=requests[0].model)
            raise RouterDefect(requests[0].id) from error
        except BaseException:
            self._refuse(call, RequestRefused(Refusal.CANCELLED, "the client went away"))
            raise

    @asynccontextmanager
    async def _begun(
        self, requests: Sequence[GenerateRequest], call: list[Admitted], held: ExitStack, *, protocol: str
    ) -> AsyncIterator[list[Passage]]:
        """Admit the requests of a call, which are added to ``call``, and begin with all of them, or with none.

        ``held`` gets what the call holds until its images are sent. Raises RequestRefused.
        """
        requests = [self._moderator.prepared(request) for request in requests]
        held.enter_context(self._in_hand.hold(len(requests)))
        call += await self._admission.admit(requests)
        for each in call:
            self.accounts.admitted(each, protocol=protocol)
        call[:] = await self._with_pixels(call)
        passages = [Passage(each, coin=self._rng.random()) for each in call]
        hear(passages, Arrived(self._in_hand.count))
        copies = COPIES_HTTP if protocol in ONLY_HTTP else COPIES_GRPC
        async with self._admission.only_one(call):
            self.bucket.check(requests)
            await self._moderator.check_prompts(requests)
            held.enter_context(await self._admission.room(call, copies=copies + self._moderator.copies))
            hear(passages, Begun())
            try:
                with self._admission.work(call.copy()):
                    yield passages
            finally:
                for passage in passages:
                    passage.leave()

    async def _with_pixels(self, call: Sequence[Admitted]) -> list[Admitted]:
        """The requests of a call with the pixels of what they give; each file is decoded once.

        Raises RequestRefused.
        """
        pixels: dict[int, GivenPixels] = {}
        image = call[0].runtime.plan.image_of(call[0].request.size)
        for edit in (each.request.edit for each in call):
            if edit is not None and id(edit) not in pixels:
                pixels[id(edit)] = await self.given.read(edit, width=image.width, height=image.height)
        return [_drawn_from(each, pixels.get(id(each.request.edit))) for each in call]

    async def _try(self, passage: Passage, protocol: str, preview: ShowPreview | None) -> Outcome:
        try:
            return await self._make(passage, protocol, preview)
        except RequestRefused as refused:
            return Unmade(passage.admitted, refused)

    async def _make(self, passage: Passage, protocol: str, preview: ShowPreview | None) -> Outcome:
        admitted = passage.admitted
        request = admitted.request
        with tracing.span(
            "generate",
            kind="SERVER",
            parent=request.receipt.trace,
            name=admitted.runtime.name,
            request=request.id,
            protocol=protocol,
            band=request.band,
        ) as span:
            try:
                answer = await passage.answer(None if self._moderator.images else preview)
                await self._moderator.check_image(request, answer)
                answer = await self.bucket.keep(request, answer, deadline=admitted.deadline)
            except RequestRefused as refused:
                tracing.note(span, refusal=str(refused.reason))
                raise
            tracing.note(
                span,
                route=str(answer.route),
                variant=answer.variant,
                hardness=answer.hardness,
                confidence=answer.confidence,
            )
        return Undelivered(admitted, answer, made_at=self.clock())

    def _deliver(self, outcomes: Sequence[Outcome], held: ExitStack) -> Delivery:
        return Delivery(outcomes, held=held, clock=self.clock, end=self._delivered)

    def _delivered(self, outcomes: Sequence[Outcome], refused: RequestRefused | None) -> None:
        """Count how the requests of a delivery ended."""
        for outcome in outcomes:
            if isinstance(outcome, Unmade):
                self.accounts.refused(outcome.admitted, outcome.refused)
            elif refused is not None:
                self.accounts.refused(outcome.admitted, refused)
            else:
                self.accounts.answered(outcome)

    def _refuse(self, call: Sequence[Admitted], refused: RequestRefused) -> None:
        for each in call:
            self.accounts.refused(each, refused)


def _drawn_from(admitted: Admitted, pixels: GivenPixels | None) -> Admitted:
    """A request with the pixels of its image instead of the file."""
    if pixels is None:
        return admitted
    request = admitted.request
    return replace(admitted, request=replace(request, edit=None, prompt=replace(request.prompt, given=pixels)))


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
