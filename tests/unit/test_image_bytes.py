"""Memory for images is limited: the most urgent get it first, and requests that would wait in vain fail at once."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from cascade_router.cascade.estimates import ENOUGH
from cascade_router.image_bytes import COPIES_GRPC, COPIES_HTTP, ImageBytes, NoRoom, Room, needed
from cascade_router.pools.clients import PIXELS, PNG_FILE, ImageForm
from support.waiting import PATIENCE_S, StoppedClock

NORMAL = 1
LONG = StoppedClock().now + PATIENCE_S


def room_of(limit: int) -> tuple[ImageBytes, StoppedClock]:
    clock = StoppedClock()
    return ImageBytes(limit, clock=clock), clock


async def take(images: ImageBytes, size: int, *, band: int = NORMAL, deadline: float = LONG) -> Room:
    return await images.take(size, band=band, deadline=deadline, start_by=deadline)


async def hold(images: ImageBytes, size: int) -> ExitStack:
    """Room that is given back when the stack is closed."""
    stack = ExitStack()
    stack.enter_context(await take(images, size))
    return stack


async def some_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_needed_grows_with_pixels_images_and_copies() -> None:
    size = {"width": 1024, "height": 1024}
    one = needed(PNG_FILE, copies=COPIES_HTTP, images=1, **size)
    assert one > 2 * 1024 * 1024 * 3
    assert needed(PNG_FILE, copies=COPIES_HTTP, images=8, **size) == 8 * one
    assert needed(PIXELS, copies=COPIES_HTTP, images=1, **size) == one
    assert needed(PIXELS, copies=COPIES_GRPC, images=1, **size) > one
    assert needed(ImageForm(raw=True), copies=COPIES_HTTP, images=1, **size) == pytest.approx(2 * one, rel=0.01)


async def test_there_is_never_more_than_the_limit_and_the_most_urgent_comes_first() -> None:
    images, _ = room_of(100)
    first = await hold(images, 95)
    order: list[str] = []

    async def waiting(name: str, size: int, *, band: int, deadline: float) -> None:
        held = await take(images, size, band=band, deadline=deadline)
        order.append(name)
        with held:
            assert images.held <= 100

    tasks = [
        asyncio.ensure_future(waiting("sooner and large", 90, band=1, deadline=LONG - 1)),
        asyncio.ensure_future(waiting("high and large", 95, band=0, deadline=LONG)),
        asyncio.ensure_future(waiting("low", 5, band=2, deadline=LONG)),
        asyncio.ensure_future(waiting("later", 5, band=1, deadline=LONG)),
    ]
    await some_turns()
    assert not order, "a small one overtook the large one that is more urgent"
    first.close()
    await asyncio.gather(*tasks)
    assert order == ["high and large", "sooner and large", "later", "low"]
    assert images.held == 0


async def test_who_goes_away_leaves_its_room_and_its_place() -> None:
    images, _ = room_of(100)
    first = await hold(images, 100)
    waits = asyncio.ensure_future(take(images, 90, band=0))
    behind = asyncio.ensure_future(take(images, 10))
    await some_turns()
    waits.cancel()
    await some_turns()
    first.close()
    with await behind:
        assert images.held == 10
    assert images.held == 0
    second = await hold(images, 100)
    granted = asyncio.ensure_future(take(images, 50))
    await some_turns()
    second.close()
    granted.cancel()  # in the moment in which it gets its room
    await asyncio.gather(granted, return_exceptions=True)
    assert images.held == 0


async def test_who_would_wait_too_long_is_refused_at_once_and_hears_how_long() -> None:
    images, clock = room_of(100)
    for _ in range(ENOUGH):
        with await take(images, 100):
            clock.now += 10.0
    await take(images, 100)
    with pytest.raises(NoRoom) as refused:
        await images.take(50, band=NORMAL, deadline=clock.now + 4, start_by=clock.now + 4)
    assert refused.value.expected_wait_s == pytest.approx(5.0)
    waits = asyncio.ensure_future(take(images, 50, deadline=clock.now + 6))
    await some_turns()
    assert not waits.done()
    assert images.expected_wait_s(50, band=NORMAL, deadline=clock.now + 7) == pytest.approx(10.0)
    assert images.expected_wait_s(50, band=0, deadline=clock.now + 7) == pytest.approx(5.0)
    waits.cancel()


async def test_no_room_by_the_last_useful_start_is_a_refusal() -> None:
    images, clock = room_of(100)
    await take(images, 100)
    with pytest.raises(NoRoom):
        await images.take(1, band=NORMAL, deadline=clock.now + 1, start_by=clock.now + 0.01)
    assert images.held == 100


async def test_what_is_larger_than_all_room_never_waits() -> None:
    images, _ = room_of(100)
    with pytest.raises(NoRoom) as refused:
        await take(images, 101)
    assert refused.value.expected_wait_s is None
