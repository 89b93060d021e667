"""An admitted request has one deadline, and whatever a call holds is given back, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings
from cascade_router.admission import Admission
from cascade_router.bucket import Bucket
from cascade_router.deliveries import Unmade
from cascade_router.image_bytes import COPIES_GRPC, ImageBytes, needed
from cascade_router.metrics import REGISTRY
from cascade_router.moderation import Moderator
from cascade_router.pools.clients import PIXELS, Prompt
from cascade_router.reporting import DemandCounter
from cascade_router.requests import GenerateRequest, MadeImage, Receipt, RequestRefused, made_images, new_id
from cascade_router.runtime import CascadeRuntime
from cascade_router.service import ImageService
from support.engine import cascade, endpoints, replicas
from support.one_cascade import OneCascade, open_to_all
from support.router import EASY, make_plan
from support.scripted_triton import Behaviour, answer, fail, hang
from support.waiting import eventually

ROOM = 100_000
SECONDS = st.floats(0.001, 1e4)


def request(**changes: Any) -> GenerateRequest:
    receipt = Receipt(at=time.monotonic())
    return GenerateRequest(
        **{"id": new_id(), "model": "shapes", "prompt": Prompt(EASY), "form": PIXELS, "receipt": receipt, **changes}
    )


@contextlib.asynccontextmanager
async def serving(
    *behaviours: Behaviour, limit: int = ROOM, **overrides: Any
) -> AsyncIterator[tuple[ImageService, CascadeRuntime]]:
    """A router's service of one cascade whose light images are made by scripted replicas."""
    async with replicas(*behaviours) as servers:
        plan = make_plan({"shapes-light": endpoints(*servers)}, direct=0, escalation=0, **overrides)
        async with cascade(plan) as runtime:
            service = ImageService(
                settings=RouterSettings(image_bytes_limit=limit),
                plans=OneCascade(runtime),
                rng=random.Random(0),
                demand=DemandCounter(),
                tenants=open_to_all(),
                moderator=Moderator(RouterSettings()),
                bucket=Bucket(RouterSettings(), clock=time.monotonic),
                clock=time.monotonic,
            )
            yield service, runtime


def in_hand() -> float | None:
    return REGISTRY.get_sample_value("cascade_requests_in_hand")


@given(at=st.floats(0, 1e6), within_s=SECONDS, call_s=st.none() | SECONDS)
def test_a_call_shortens_a_deadline_and_never_lengthens_it(at: float, within_s: float, call_s: float | None) -> None:
    deadline = Receipt(at, call_s=call_s).deadline(within_s)
    assert deadline <= at + within_s
    assert deadline == at + within_s or (call_s is not None and deadline == at + call_s)


async def test_all_requests_of_a_call_have_one_deadline_which_counts_from_its_receipt() -> None:
    async with cascade(make_plan({"shapes-light": ["a:1"]}, objectiveS=60)) as runtime:
        images = ImageBytes(ROOM, clock=time.monotonic)
        admission = Admission(find=lambda _: runtime, tenants=open_to_all(), image_bytes=images, clock=time.monotonic)
        receipt = Receipt(at=1000.0, call_s=40.0)
        for within_s, allowed_s in ((None, 40.0), (7.0, 7.0), (50.0, 40.0)):
            call = await admission.admit([request(receipt=receipt, within_s=within_s) for _ in range(3)])
            assert [(each.received, each.deadline) for each in call] == [(1000.0, 1000.0 + allowed_s)] * 3
        (alone,) = await admission.admit([request(receipt=Receipt(at=1000.0))])
        assert alone.deadline == 1060.0
        admission.closed = True
        with pytest.raises(RequestRefused) as refused:
            await admission.admit([request()])
        assert refused.value.reason is Refusal.SHUTTING_DOWN


async def test_a_call_holds_room_and_its_place_in_hand_until_its_images_are_sent() -> None:
    async with serving(answer()) as (service, runtime):
        delivery = await service.generate([request(), request()], protocol="grpc")
        assert (in_hand(), service.image_bytes.held > 0) == (2, True)
        draining = asyncio.ensure_future(service.drain(60))
        with delivery:
            assert delivery.pack(len) == 2
            assert in_hand() == 2
        assert (in_hand(), service.image_bytes.held) == (0, 0)
        assert (runtime.tally.received, runtime.tally.routes.total(), runtime.tally.refusals) == (2, 2, {})
        assert await draining


async def test_the_first_request_that_fails_withdraws_the_call_and_nothing_is_held() -> None:
    async with serving(fail(grpc.StatusCode.INVALID_ARGUMENT, "prompt: not this one")) as (service, runtime):
        with pytest.raises(RequestRefused, match="not this one"):
            await service.generate([request(), request()], protocol="grpc")
        assert (in_hand(), service.image_bytes.held) == (0, 0)
        assert runtime.tally.refusals == {Refusal.INVALID: 2}
        (pool,) = runtime.plan.pools
        await eventually(lambda: runtime.queue.load(pool.name).in_flight == 0, what="the grants to be given back")


async def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async with serving(hang()) as (service, runtime):
        asked = asyncio.ensure_future(service.generate([request()], protocol="http"))
        (pool,) = runtime.plan.pools
        await eventually(lambda: runtime.queue.load(pool.name).in_flight == 1, what="a replica at work")
        asked.cancel()
        await asyncio.wait([asked])
        assert (in_hand(), service.image_bytes.held) == (0, 0)
        assert runtime.tally.refusals == {Refusal.CANCELLED: 1}
        await eventually(lambda: runtime.queue.load(pool.name).in_flight == 0, what="the grant to be given back")


async def test_what_admission_refuses_is_counted_for_the_cascade_and_holds_nothing() -> None:
    async with serving(answer(), limit=needed(PIXELS, copies=COPIES_GRPC, width=32, height=32, images=1)) as (
        service,
        runtime,
    ):
        too_many = service.generate([request() for _ in range(10)], protocol="grpc")
        with pytest.raises(RequestRefused, match="ask for fewer images"):
            await too_many
        with pytest.raises(RequestRefused, match="Redis, which cannot be reached"):
            await service.generate([request(idempotency_key="k")], protocol="grpc")
        assert (in_hand(), service.image_bytes.held) == (0, 0)
        assert runtime.tally.refusals == {Refusal.INVALID: 10, Refusal.STORE_AWAY: 1}


async def test_who_comes_after_the_time_to_drain_is_turned_away() -> None:
    async with serving(answer()) as (service, runtime):
        with await service.generate([request()], protocol="grpc"):
            assert not await service.drain(0.01)
        with pytest.raises(RequestRefused) as refused:
            await service.generate([request()], protocol="grpc")
        assert refused.value.reason is Refusal.SHUTTING_DOWN
        assert (in_hand(), runtime.tally.received, runtime.tally.refusals) == (0, 1, {})


def picky() -> Behaviour:
    """Makes images at once, but none of a prompt with a dragon."""
    make, refuse = answer(), fail(grpc.StatusCode.INVALID_ARGUMENT, "prompt: no dragons")

    async def behave(asked: Any, context: Any) -> Any:
        return await (refuse if b"dragon" in asked.raw_input_contents[0] else make)(asked, context)

    return behave


def three() -> list[GenerateRequest]:
    return [request(index=index, prompt=Prompt("a dragon" if index == 1 else EASY)) for index in range(3)]


async def test_of_a_partial_call_the_images_that_were_made_are_delivered() -> None:
    async with serving(picky()) as (service, runtime):
        with await service.generate(three(), protocol="http", partial=True) as delivery:
            told = delivery.pack(lambda answers: [isinstance(each, MadeImage) for each in answers])
        assert told == [True, False, True]
        assert (runtime.tally.routes.total(), runtime.tally.refusals) == (2, {Refusal.INVALID: 1})
        with pytest.raises(RequestRefused, match="no dragons"):
            await service.generate([request(prompt=Prompt("a dragon"))] * 2, protocol="http", partial=True)
        assert runtime.tally.refusals == {Refusal.INVALID: 3}
        assert (in_hand(), service.image_bytes.held) == (0, 0)


async def test_a_stream_delivers_each_image_and_then_tells_what_is_missing() -> None:
    async with serving(picky()) as (service, runtime):
        found: list[int | RequestRefused] = []
        async for outcome in service.stream(three(), protocol="http-stream"):
            if isinstance(outcome, Unmade):
                found.append(outcome.refused)
            else:
                with outcome as delivery:
                    found += delivery.pack(lambda answers: [image.index for image in made_images(answers)])
        assert sorted(each for each in found if isinstance(each, int)) == [0, 2]
        assert isinstance(found[-1], RequestRefused)
        assert (runtime.tally.routes.total(), runtime.tally.refusals) == (2, {Refusal.INVALID: 1})
        assert (in_hand(), service.image_bytes.held) == (0, 0)


async def test_a_stream_that_is_left_withdraws_the_images_that_are_not_there_yet() -> None:
    make, stop = answer(), hang()

    async def first_only(asked: Any, context: Any) -> Any:
        return await (stop if b"dragon" in asked.raw_input_contents[0] else make)(asked, context)

    async with serving(first_only) as (service, runtime):
        async with contextlib.aclosing(service.stream(three()[:2], protocol="http-stream")) as stream:
            with await anext(stream) as delivery:
                delivery.pack(len)
            (pool,) = runtime.plan.pools
            await eventually(lambda: runtime.queue.load(pool.name).in_flight == 1, what="the other to be at work")
        assert (in_hand(), service.image_bytes.held) == (0, 0)
        assert (runtime.tally.routes.total(), runtime.tally.refusals) == (1, {Refusal.CANCELLED: 1})
        await eventually(lambda: runtime.queue.load(pool.name).in_flight == 0, what="the grant to be given back")
