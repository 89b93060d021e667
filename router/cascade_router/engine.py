"""Drives one request through the cascade: it carries out the effects of its machine, and reports how they ended.

`cascade.machine` makes the decisions. A request ends with a `MadeImage`, a `RequestRefused`, or the caller's
cancellation; in each case a grant that it holds is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from . import metrics, tracing
from .admission import Admitted
from .cascade import effects, events
from .cascade.calls import hear_together
from .cascade.decisions import Make, Refuse
from .cascade.machine import Effects, RequestMachine
from .pools.clients import PromptRejected, ReplicaFailed, ReplicaTimedOut
from .queue import EntryExpired, Grant, NoReadyReplica, QueueEntry, QueueFull
from .requests import LORA, MadeImage, RequestRefused

ShowPreview: TypeAlias = Callable[[MadeImage], None]
"""Called with the light image of a request while the heavy one is being made."""


def hear(passages: Sequence[Passage], event: events.Arrived | events.Begun) -> None:
    """Tell all images of a call what has happened; either all go on, or none. Raises RequestRefused."""
    runtime = passages[0].admitted.runtime
    heard = hear_together([passage.machine for passage in passages], event, runtime.clock())
    if isinstance(heard, Refuse):
        raise _refused(heard)
    for passage, todo in zip(passages, heard, strict=True):
        passage.next(todo)


class Passage:
    """An admitted request on its way through the cascade. It hears `Arrived` and `Begun` by `hear`.

    Args:
        coin: random in [0, 1), for scorers that use it.
    """

    _grant: Grant

    def __init__(self, admitted: Admitted, *, coin: float) -> None:
        self.admitted = admitted
        self._runtime = admitted.runtime
        self._request = admitted.request
        self._preview: ShowPreview | None = None
        self._todo: Effects = ()
        self._answering = False
        self.machine = RequestMachine(
            admitted.runtime.state,
            text=admitted.request.prompt.text,
            band=admitted.request.band,
            coin=coin,
            received=admitted.received,
            deadline=admitted.deadline,
            ahead=admitted.request.index,
            wish=admitted.request.wish,
            size=admitted.request.size,
        )
        self._accelerator_s = 0.0

    def next(self, todo: Effects) -> None:
        """Take what is to be done next."""
        self._todo = todo
        if todo:
            metrics.of(metrics.HARDNESS, self._runtime.name).observe(self.machine.choice.hardness)

    def leave(self) -> None:
        """End a request whose `answer` was not called."""
        if not self._answering:
            self.machine.on(events.Cancelled(), self._runtime.clock())

    async def answer(self, preview: ShowPreview | None = None) -> MadeImage:
        """The image; ``preview`` is called with the light image if it escalates.

        Raises:
            RequestRefused: there is no image, and why.
        """
        self._preview, self._answering = preview, True
        try:
            step = await self._carry_out(self._todo)
            while not isinstance(step, effects.Answer | Refuse):
                step = await self._carry_out(self._on(step))
        except BaseException:
            for effect in self._on(events.Cancelled()):
                await self._carry_out([effect])
            raise
        if isinstance(step, Refuse):
            raise _refused(step)
        return self._answered(step)

    def _on(self, event: events.Event) -> Effects:
        return self.machine.on(event, self._runtime.clock())

    async def _carry_out(self, todo: Effects) -> events.Event | effects.Answer | Refuse:
        """Carry out all effects; returns the event of the last one, or how the request ends."""
        runtime = self._runtime
        for effect in todo:
            match effect:
                case effects.Release(service_s, failed):
                    await runtime.queue.release(self._grant, service_s=service_s, failed=failed)
                case effects.Ejected() | effects.Trusted():
                    runtime.note([effect])
                case effects.Preview(answer):
                    if self._preview is not None:
                        self._preview(self._answered(replace(answer, image=answer.image.unmarked(self._request.form))))
                case effects.Enqueue(step, retry):
                    if retry:
                        metrics.of(metrics.RETRIES, runtime.name, step.stage).inc()
                    return await self._wait_for_grant(step)
                case effects.Exchange(step, service_s):
                    return await self._wait_for_grant(step, service_s=service_s)
                case effects.Infer():
                    return await self._infer(effect)
                case effects.Wait(until):
                    return events.Waited(await runtime.changed(until - runtime.clock()))
                case effects.Answer() | Refuse():
                    return effect
        return events.Cancelled()

    async def _wait_for_grant(self, step: Make, *, service_s: float | None = None) -> events.Event:
        """Wait for a grant; if ``service_s`` is given, also exchange the grant that is held, which took so long."""
        queue, began = self._runtime.queue, self._runtime.clock()
        # The queue drops an entry at its deadline, which is the last moment for a start in time.
        entry = QueueEntry(
            id=self._request.id,
            pool=step.pool,
            band=self._request.band,
            deadline=step.start_by,
            work=self.machine.work(step),
        )
        try:
            with tracing.span("wait", stage=step.stage, pool=step.pool):
                if service_s is None:
                    self._grant = await queue.acquire(entry)
                else:
                    self._grant = await queue.exchange(self._grant, entry, service_s=service_s)
        except EntryExpired:
            return events.Expired()
        except NoReadyReplica:
            return events.NoReplica()
        except QueueFull as full:
            return events.Full(full.waiting, full.expected_wait_s)
        metrics.of(metrics.STAGE_WAIT, self._runtime.name, step.stage).observe(self._runtime.clock() - began)
        return events.Granted(self._grant.replica_id)

    async def _infer(self, infer: effects.Infer) -> events.Event:
        """One try on the replica of the grant."""
        runtime, request, step = self._runtime, self._request, infer.step
        began, replica = runtime.clock(), infer.replica_id
        variant = runtime.plan.variants.get(step.variant)
        if variant is None:
            return events.Failed(f"{step.variant} has left the plan")
        if request.wish.edits and not variant.edits:
            return events.Rejected(f"image: {step.variant} does not edit images any more")
        if not request.wish.has_adapter(variant):
            return events.Rejected(f"{LORA}: {request.wish.lora[:40]!r} is not an adapter of {step.variant} any more")
        try:
            with tracing.span("make", kind="CLIENT", stage=step.stage, variant=step.variant, replica=replica) as span:
                image = await runtime.clients.make(
                    endpoint=self._grant.endpoint,
                    variant=variant,
                    prompt=request.prompt,
                    lora=variant.adapters.get(request.wish.lora, ""),
                    form=request.form,
                    size=runtime.plan.image_of(request.size),
                    confidence=step.stage == "light",
                    image=not infer.only_judged or self._preview is not None,
                    request_id=request.id,
                    timeout_s=infer.timeout_s,
                )
                tracing.note(span, confidence=image.confidence)
        except PromptRejected as rejected:
            return events.Rejected(str(rejected))
        except ReplicaTimedOut:
            return events.OutOfTime()
        except ReplicaFailed as failure:
            return events.Failed(str(failure))
        service_s = runtime.clock() - began
        if image.batch_time is not None:
            took_s = image.batch_time.seconds / image.batch_time.images
            self._accelerator_s += took_s
            who = (request.receipt.tenant, request.wish.tier)
            metrics.of(metrics.ACCELERATOR_SECONDS, runtime.name, *who, step.variant).inc(took_s)
        metrics.of(metrics.STAGE_SERVICE, runtime.name, step.stage, step.variant).observe(service_s)
        if step.stage == "light":
            metrics.of(metrics.CONFIDENCE, runtime.name, step.variant).observe(image.confidence or 0.0)
        return events.Made(image, image.confidence, image.batch_time)

    def _answered(self, answer: effects.Answer) -> MadeImage:
        return MadeImage(
            request_id=self._request.id,
            cascade=self._runtime.name,
            image=answer.image,
            variant=answer.variant,
            route=answer.route,
            hardness=self.machine.choice.hardness,
            confidence=answer.confidence,
            latency_s=self._runtime.clock() - self.admitted.received,
            index=self._request.index,
            lora=self._request.wish.lora,
            accelerator_s=self._accelerator_s,
        )


def _refused(refuse: Refuse) -> RequestRefused:
    return RequestRefused(refuse.reason, refuse.message, field=refuse.field, retry_after_s=refuse.retry_after_s)
