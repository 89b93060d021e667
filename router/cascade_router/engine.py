"""Takes one request through the cascade: decide, wait for a replica, make the image, decide again, answer or refuse.

Every request that enters `generate` leaves it with an `Answer`, a `Refused`, or the caller's cancellation; a grant that
was taken is given back in each case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cascade_api.reasons import Refusal, Route

from . import metrics, tracing
from .cascade.decisions import Accept, Make, Refuse, admit, after_light, instead, may_fall_back, may_turn, on_failure
from .pools.clients import Image, OutOfTime, PromptRejected, ReplicaFailed
from .queue import Entry, Expired, Grant, NoReplica, QueueFull, limit_of
from .requests import Answer, GenerateRequest, Refused
from .runtime import CascadeRuntime

ANSWER_MARGIN: Final = 0.025
ANSWER_MARGIN_S: Final = (0.01, 0.25)
"""Share of the time allowed, and its bounds in seconds, kept back to answer with a light image when the heavy one
does not come: the answer has to reach the client by the deadline."""
AFTER_IMAGE: Final = 0.25
"""Share of the time allowed that is kept back at most for packing the image and sending it."""
HUNG_FACTOR: Final = 4.0
HUNG_EXTRA_S: Final = 1.0
"""A replica that takes longer than 4 times its execution time and a second is treated as failed."""
LOOK_AGAIN_S: Final = 0.5
"""How often a request that waits for a replica of one model looks whether the other could make its image by now."""


Preview = Callable[[Answer], None]
"""Takes the light image of a request while the heavy one is being made."""


async def generate(
    runtime: CascadeRuntime,
    request: GenerateRequest,
    *,
    coin: float,
    queue_limit: int,
    preview: Preview | None = None,
) -> Answer:
    """The image for a request.

    Args:
        coin: random in [0, 1), for scorers that use it.
        queue_limit: waiting entries of one pool, see `limit_of`.
        preview: called with the light image when it is escalated.

    Raises:
        Refused: there is no image, and why.
    """
    return await _Run(runtime, request, coin=coin, queue_limit=queue_limit, preview=preview).answer()


@dataclass(frozen=True, slots=True)
class _Made:
    """An image, and the grant that it was made under."""

    image: Image
    grant: Grant
    service_s: float


class _Run:
    """One request under way."""

    def __init__(
        self,
        runtime: CascadeRuntime,
        request: GenerateRequest,
        *,
        coin: float,
        queue_limit: int,
        preview: Preview | None,
    ) -> None:
        plan = runtime.plan
        self._runtime = runtime
        self._request = request
        self._queue_limit = limit_of(queue_limit, band=request.band)
        self._preview = preview
        self._overload = plan.overload
        self._received = runtime.clock() if request.received is None else request.received
        allowed_s = plan.objective_s if request.deadline_s is None else request.deadline_s
        after_s = min(AFTER_IMAGE * allowed_s, runtime.after_image.quantile or 0.0)
        self._deadline = self._received + allowed_s - after_s
        self._turned = False
        """From the first model to the other, which happens once."""
        self._coin = coin
        self._choice = runtime.chooser.choose(plan, request.prompt.text, coin=coin)
        metrics.of(metrics.HARDNESS, runtime.name).observe(self._choice.hardness)
        runtime.retries.earn()

    async def answer(self) -> Answer:
        step = await self._admit()
        while True:
            try:
                made = await self._make(step)
                break
            except Refused as refused:
                step = self._turn(step, refused)
        if step.stage == "heavy":
            await self._release(made)
            return self._answered(made.image, step.variant, Route.DIRECT, None)
        confidence = made.image.confidence or 0.0
        metrics.of(metrics.CONFIDENCE, self._runtime.name, step.variant).observe(confidence)
        if step.degraded:
            await self._release(made)
            return self._answered(made.image, step.variant, Route.DEGRADED, confidence)
        return await self._second_stage(made, confidence)

    async def _second_stage(self, light: _Made, confidence: float) -> Answer:
        """What becomes of a light image; its grant ends here."""
        runtime, row = self._runtime, self._choice.row
        try:
            escalate = runtime.chooser.escalates(row, confidence)
            step = after_light(
                escalate=escalate,
                heavy=runtime.outlooks(row.heavy, band=self._request.band) if escalate else (),
                deadline=self._deadline,
                now=runtime.clock(),
                overload=self._overload,
                queue_limit=self._queue_limit,
            )
        except Exception:
            await self._release(light)
            raise
        if not isinstance(step, Make):
            await self._release(light)
            return self._settled(step, light.image, confidence)
        if self._preview is not None:
            self._preview(self._answered(light.image, row.light, Route.LIGHT, confidence))
        try:
            made = await self._make(step, light=light)
        except Refused as refused:
            if not may_fall_back(refused.reason, overload=self._overload):
                raise
            return self._settled(Accept(degraded=True), light.image, confidence)
        await self._release(made)
        return self._answered(made.image, step.variant, Route.ESCALATED, confidence)

    def _settled(self, step: Accept | Refuse, image: Image, confidence: float) -> Answer:
        if isinstance(step, Refuse):
            raise _refused(step)
        route = Route.DEGRADED if step.degraded else Route.LIGHT
        return self._answered(image, self._choice.row.light, route, confidence)

    async def _admit(self) -> Make:
        """The first stage; waits while no replica that could serve is there but one is expected."""
        runtime = self._runtime
        while True:
            row, direct = self._choice.row, self._choice.direct
            step = admit(
                direct=direct,
                light=runtime.outlooks(row.light, band=self._request.band),
                heavy=runtime.outlooks(row.heavy, band=self._request.band),
                deadline=self._deadline,
                now=runtime.clock(),
                overload=self._overload,
                queue_limit=self._queue_limit,
                escalates=row.escalation > 0,
            )
            if isinstance(step, Make):
                return step
            waits = step.reason is Refusal.NO_REPLICA
            if not waits or not await self._replica_may_come(row.heavy if direct else row.light):
                raise _refused(step)
            if row not in runtime.plan.rows:
                # The plan that came goes another way.
                self._choice = runtime.chooser.choose(runtime.plan, self._request.prompt.text, coin=self._coin)

    def _turn(self, step: Make, refused: Refused) -> Make:
        """The first model made no image: the other one may still make it in time."""
        other = self._instead(step) if may_turn(step.stage, refused.reason, overload=self._overload) else None
        if other is None:
            raise refused
        self._turned = True
        return other

    def _instead(self, step: Make) -> Make | None:
        if self._turned:
            return None
        return instead(
            step.stage,
            others=self._runtime.outlooks(self._other(step.variant), band=self._request.band),
            deadline=self._deadline,
            now=self._runtime.clock(),
            overload=self._overload,
            queue_limit=self._queue_limit,
        )

    def _other(self, variant: str) -> str:
        row = self._choice.row
        return row.heavy if variant == row.light else row.light

    async def _make(self, step: Make, *, light: _Made | None = None) -> _Made:
        """Wait for a replica and have it make the image; on another replica if that one fails.

        ``light`` is the light image at hand when escalating; its grant is given back as the heavy one is asked for.
        """
        runtime = self._runtime
        to_exchange, attempts = light, 0
        while True:
            leaving, to_exchange = to_exchange, None
            try:
                grant = await self._granted(step, leaving=leaving)
            except NoReplica:
                step = await self._another(step, attempts=attempts, have_light=light is not None)
                continue
            if grant.replica_id in runtime.health.ejected:
                # Given back as failed, so that the queue holds the replica for a while.
                await runtime.queue.release(grant, service_s=None, failed=True)
                step = await self._another(step, attempts=attempts, have_light=light is not None)
                continue
            attempts += 1
            try:
                return await self._infer(step, grant, have_light=light is not None)
            except ReplicaFailed as failure:
                runtime.replica_failed(grant.replica_id, str(failure))
                step = await self._another(step, attempts=attempts, have_light=light is not None)
                runtime.retries.spend()
                metrics.of(metrics.RETRIES, runtime.name, step.stage).inc()

    async def _granted(self, step: Make, *, leaving: _Made | None) -> Grant:
        """Wait for a replica; ``leaving`` is the light stage that ends with it."""
        queue, began = self._runtime.queue, self._runtime.clock()
        # The queue drops an entry at its deadline: the last useful start, not the end.
        entry = Entry(id=self._request.id, pool=step.pool, band=self._request.band, deadline=step.start_by)
        try:
            with tracing.span("wait", stage=step.stage, pool=step.pool):
                if leaving is None:
                    grant = await queue.acquire(entry)
                else:
                    grant = await queue.exchange(leaving.grant, entry, service_s=leaving.service_s)
        except Expired:
            raise Refused(
                Refusal.DEADLINE_EXCEEDED, f"the {step.stage} model could not begin in time to meet the deadline"
            ) from None
        except QueueFull as full:
            raise Refused(
                Refusal.QUEUE_FULL,
                f"{full.waiting} requests wait for the {step.stage} model, which is the limit",
                retry_after_s=full.expected_wait_s,
            ) from None
        metrics.of(metrics.STAGE_WAIT, self._runtime.name, step.stage).observe(self._runtime.clock() - began)
        return grant

    async def _infer(self, step: Make, grant: Grant, *, have_light: bool) -> _Made:
        """One try on one replica; the grant is given back unless an image comes of it."""
        runtime, request = self._runtime, self._request
        began = runtime.clock()
        left = self._deadline - began
        patience = self._patience(step)
        if have_light and self._overload == "degrade":
            least, most = ANSWER_MARGIN_S
            left -= max(least, min(most, ANSWER_MARGIN * (self._deadline - self._received)))
        try:
            with tracing.span(
                "make", kind="CLIENT", stage=step.stage, variant=step.variant, replica=grant.replica_id
            ) as span:
                image = await runtime.clients.make(
                    endpoint=grant.endpoint,
                    variant=step.variant,
                    prompt=request.prompt,
                    form=request.form,
                    size=(runtime.plan.image.width, runtime.plan.image.height),
                    confidence=step.stage == "light",
                    request_id=request.id,
                    timeout_s=min(left, patience),
                )
                tracing.note(span, confidence=image.confidence)
        except PromptRejected as rejected:
            await runtime.queue.release(grant, service_s=None)
            raise Refused(Refusal.INVALID, _about_prompt(str(rejected)), field="prompt") from None
        except OutOfTime:
            took = runtime.clock() - began
            hangs = took > self._hung_after(step)
            if hangs:
                # What was seen counts: were all replicas this slow, none would be thought hanging for long.
                runtime.estimates.observe(step.pool, took)
            await runtime.queue.release(grant, service_s=None, failed=hangs)
            if patience < left:
                raise ReplicaFailed(f"no answer within {patience:.1f} s") from None
            if hangs:
                runtime.replica_failed(grant.replica_id, f"no answer within {took:.1f} s")
            raise Refused(
                Refusal.DEADLINE_EXCEEDED, f"the {step.stage} model did not finish before the deadline"
            ) from None
        except BaseException as error:
            await runtime.queue.release(grant, service_s=None, failed=isinstance(error, ReplicaFailed))
            raise
        service_s = runtime.clock() - began
        runtime.estimates.observe(step.pool, service_s)
        runtime.replica_works(grant.replica_id)
        metrics.of(metrics.STAGE_SERVICE, runtime.name, step.stage, step.variant).observe(service_s)
        return _Made(image, grant, service_s)

    def _patience(self, step: Make) -> float:
        """Seconds after which a try is given up for another; endless where there is no other replica."""
        return self._hung_after(step) if self._runtime.ready(step.variant) > 1 else math.inf

    def _hung_after(self, step: Make) -> float:
        return HUNG_FACTOR * self._runtime.execution_s(step.pool) + HUNG_EXTRA_S

    async def _another(self, step: Make, *, attempts: int, have_light: bool) -> Make:
        """The next try after a failed one, waiting while no replica is trusted but one may come back."""
        while True:
            again = on_failure(
                stage=step.stage,
                attempts=attempts,
                outlooks=self._runtime.outlooks(step.variant, band=self._request.band),
                deadline=self._deadline,
                now=self._runtime.clock(),
                retry_budget=self._runtime.retries.left,
            )
            if isinstance(again, Make):
                return again
            # Where another image can stand in, an answer now is better than a wait.
            patient = self._overload == "strict" or not (have_light or self._instead(step))
            waits = patient and again.reason is Refusal.NO_REPLICA
            if not waits or not await self._replica_may_come(step.variant):
                raise _refused(again)

    async def _replica_may_come(self, variant: str) -> bool:
        """Wait for a change while a replica of ``variant`` is expected; False where waiting is pointless.

        Where the other model is up but has too much to do, the wait is short: it may have less to do soon.
        """
        runtime = self._runtime
        left = self._deadline - runtime.clock()
        execution_s = min((outlook.execution_s for outlook in runtime.outlooks(variant)), default=0.0)
        if left <= execution_s or runtime.parked >= self._queue_limit or not runtime.expects_replica(variant):
            return False
        patience_s = left - execution_s
        if self._overload == "strict" or self._turned or not runtime.ready(self._other(variant)):
            return await runtime.changed(patience_s)
        await runtime.changed(min(patience_s, LOOK_AGAIN_S))
        return True

    async def _release(self, made: _Made) -> None:
        await self._runtime.queue.release(made.grant, service_s=made.service_s)

    def _answered(self, image: Image, variant: str, route: Route, confidence: float | None) -> Answer:
        return Answer(
            request_id=self._request.id,
            cascade=self._runtime.name,
            image=image,
            variant=variant,
            route=route,
            hardness=self._choice.hardness,
            confidence=confidence,
            latency_s=self._runtime.clock() - self._received,
        )


def _refused(step: Refuse) -> Refused:
    return Refused(step.reason, step.message, retry_after_s=step.retry_after_s)


def _about_prompt(message: str) -> str:
    return message if message.startswith("prompt") else f"prompt: {message}"
