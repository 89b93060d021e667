"""Limits the bytes of images that a router holds: a call first reserves memory for its images, and releases it when
they are sent.

Memory is reserved for all images of a call together, before any of them is made. So no call that holds memory waits for
more, and two calls never wait for each other. If there is not enough, calls wait in the order of priority and then
deadline. A call is refused at once if the wait is expected to take longer than its deadline allows.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from .cascade.estimates import Recent
from .pools.clients import ImageForm

COPIES_GRPC: Final = 4.5
COPIES_HTTP: Final = 2.0
"""How many times the size of an image a router holds at most. Over gRPC these are the image as the model sent it,
packed, serialised, and in the transport. Over HTTP they are the image as the model sent it, a small part in base64, and
in a stream the light image together with the heavy one. Measured with clients that do not read."""
_CHANNELS: Final = 3
_OVERHEAD: Final = 1024


def needed(form: ImageForm, *, copies: float, width: int, height: int, images: int) -> int:
    """Most bytes that a router may hold for the images of a call; an encoded image may be as large as its pixels."""
    each = max(1, form.raw + bool(form.encoded)) * width * height * _CHANNELS
    return images * (int(copies * each) + _OVERHEAD)


class NoRoom(Exception):
    """There is no memory in time; ``expected_wait_s`` says in how many seconds there may be (None: never)."""

    def __init__(self, expected_wait_s: float | None) -> None:
        super().__init__("no room for the images")
        self.expected_wait_s = expected_wait_s


class Room(AbstractContextManager["Room"]):
    """The memory reserved for one call, which is released at the end of the block."""

    def __init__(self, owner: ImageBytes, size: int, since: float) -> None:
        self._owner = owner
        self.size = size
        self._since = since

    def __exit__(self, *_: object) -> None:
        self._owner.returned(self.size, self._since)


class ImageBytes:
    """The memory for images of one router.

    Args:
        limit: bytes.
        clock: monotonic seconds.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self.held = 0
        self._held_s = Recent(level=0.5)
        self._order = itertools.count()
        self._waiting: list[tuple[int, float, int, int, asyncio.Future[None]]] = []

    async def take(self, size: int, *, band: int, deadline: float, start_by: float) -> Room:
        """Reserve ``size`` bytes; at ``start_by`` it would be too late to use them.

        Raises:
            NoRoom: there is not enough memory until then, or it is not expected.
        """
        if size > self.limit:
            raise NoRoom(None)
        if self._waiting or self.held + size > self.limit:
            await self._wait(size, band=band, deadline=deadline, start_by=start_by)
        else:
            self.held += size
        return Room(self, size, self._clock())

    def returned(self, size: int, since: float) -> None:
        """Note that ``size`` bytes are free again, which were held since ``since``."""
        self.held -= size
        self._held_s.observe(self._clock() - since)
        self._admit()

    def expected_wait_s(self, size: int, *, band: int, deadline: float) -> float:
        """Seconds until there may be memory for a call, if the calls before it end as quickly as recent ones."""
        ahead = sum(other for *urgency, other, _ in self._waiting if tuple(urgency[:2]) <= (band, deadline))
        return max(0, self.held + ahead + size - self.limit) / self.limit * (self._held_s.quantile or 0.0)

    async def _wait(self, size: int, *, band: int, deadline: float, start_by: float) -> None:
        expected_s = self.expected_wait_s(size, band=band, deadline=deadline)
        left_s = start_by - self._clock()
        if expected_s > left_s:
            raise NoRoom(expected_s)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (band, deadline, next(self._order), size, granted))
        try:
            async with asyncio.timeout(left_s):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self.held -= size
            granted.cancel()
            self._admit()
            if isinstance(error, TimeoutError):
                raise NoRoom(self.expected_wait_s(size, band=band, deadline=deadline)) from None
            raise

    def _admit(self) -> None:
        """Give memory to the most urgent calls; no call overtakes a large one that waits for more."""
        while self._waiting:
            *_, size, granted = self._waiting[0]
            if not granted.done() and self.held + size > self.limit:
                return
            heapq.heappop(self._waiting)
            if not granted.done():
                self.held += size
                granted.set_result(None)
