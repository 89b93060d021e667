"""The deadline includes what follows after an image: time is kept for it, and an image that is too late is not sent."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from cascade_api.reasons import Refusal
from cascade_router.cascade.estimates import ENOUGH
from cascade_router.deliveries import Delivery, Undelivered
from cascade_router.image_bytes import ImageBytes
from cascade_router.requests import Receipt, RequestRefused
from cascade_router.runtime import CascadeRuntime
from support.engine import admitted, ask, cascade, endpoints, replicas
from support.router import make_plan
from support.scripted_triton import answer
from support.waiting import StoppedClock

SIZE = 100


async def delivery_of(runtime: CascadeRuntime, clock: StoppedClock, *, left_s: float) -> tuple[Delivery, list[Any]]:
    """An image that was made just now and has so many seconds left, and where its end is put."""
    ends: list[Any] = []
    images = ImageBytes(SIZE, clock=clock)
    held = ExitStack()
    held.enter_context(await images.take(SIZE, band=1, deadline=clock.now, start_by=clock.now))
    made = Undelivered(admitted(runtime, within_s=left_s), await ask(runtime), made_at=clock.now)
    return Delivery([made], held=held, clock=clock, end=lambda _, refused: ends.append((refused, images.held))), ends


async def test_an_answer_ends_once_and_gives_its_room_back() -> None:
    clock = StoppedClock()
    async with (
        replicas(answer()) as (server,),
        cascade(make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0), clock=clock) as runtime,
    ):
        delivery, ends = await delivery_of(runtime, clock, left_s=2)
        with delivery:
            clock.now += 1.9
            delivery.pack(len)
        assert ends == [(None, 0)]
        delivery.sent()
        delivery.failed()
        assert len(ends) == 1


async def test_what_is_too_late_is_refused_and_who_went_away_is_told_from_it() -> None:
    clock = StoppedClock()
    async with (
        replicas(answer()) as (server,),
        cascade(make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0), clock=clock) as runtime,
    ):
        delivery, ends = await delivery_of(runtime, clock, left_s=2)
        clock.now += 2.1
        with pytest.raises(RequestRefused, match="too late to be sent"), delivery:
            delivery.pack(len)
        delivery, others = await delivery_of(runtime, clock, left_s=2)
        with pytest.raises(asyncio.CancelledError), delivery:
            raise asyncio.CancelledError
        assert [end[0].reason for end in ends + others] == [Refusal.DEADLINE_EXCEEDED, Refusal.CANCELLED]
        assert [held for _, held in ends + others] == [0, 0]


async def test_time_is_left_for_what_answers_took_lately_after_their_image() -> None:
    clock = StoppedClock()
    execution_s = {"shapes-light": 7.0}
    async with replicas(answer()) as (server,):
        plan = make_plan({"shapes-light": endpoints(server)}, direct=0, escalation=0, execution_s=execution_s, batch=1)
        async with cascade(plan, clock=clock) as runtime:
            await ask(runtime, within_s=10)
            for _ in range(ENOUGH):
                runtime.state.after_image.observe(3.5)
            # A quarter is the most that is kept back, lest slow clients keep everybody else from their images.
            await ask(runtime, within_s=10)
            with pytest.raises(RequestRefused) as refused:
                await ask(runtime, within_s=9)
            assert refused.value.reason is Refusal.DEADLINE_UNREACHABLE
            # The deadline counts from receipt, however long ago that was.
            with pytest.raises(RequestRefused, match="deadline"):
                await ask(runtime, within_s=30, receipt=Receipt(clock.now - 22))
