"""Bounds the bytes of images that a router holds: a call takes room for its images first, and gives it back when they
are sent.

Room is taken for all images of a call together and before any of them is asked for, so nobody who has some waits for
more. Who finds none waits by priority, then deadline, and is refused at once where the wait is expected to take longer
than there is time.
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
"""How much a router holds of an image at the most, in images: over gRPC as the model sent it, packed, written out, and
in the transport; over HTTP as the model sent it, with a little of it in base64, and in a stream that of the light model
beside that of the heavy one. Measured with clients that do not read."""
_CHANNELS: Final = 3
_OVERHEAD: Final = 1024


def needed(form: ImageForm, *, copies: float, width: int, height: int, images: int) -> int:
    """Bytes that a router may have to hold for the images of a call; an encoded one may be as large as its pixels."""
    each = max(1, form.raw + bool(form.encoded)) * width * height * _CHANNELS
    return images * (int(copies * each) + _OVERHEAD)


class NoRoom(Exception):
    """There is no room in time; ``expected_wait_s`` is when there may be, None where there never is."""

    def __init__(self, expected_wait_s: float | None) -> None:
        super().__init__("no room for the images")
        self.expected_wait_s = expected_wait_s


class Room(AbstractContextManager["Room"]):
    """Room that one call has, given back at the end of the block."""

    def __init__(self, owner: ImageBytes, size: int, since: float) -> None:
        self._owner = owner
        self.size = size
        self._since = since

    def __exit__(self, *_: object) -> None:
        self._owner.returned(self.size, self._since)


class ImageBytes:
    """The room of one router.

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
        """Room of ``size`` bytes; ``start_by`` is when having it is of no use any more.

        Raises:
            NoRoom: there is none by then, or is not expected to be.
        """
        if size > self.limit:
            raise NoRoom(None)
        if self._waiting or self.held + size > self.limit:
            await self._wait(size, band=band, deadline=deadline, start_by=start_by)
        else:
            self.held += size
        return Room(self, size, self._clock())

    def returned(self, size: int, since: float) -> None:
        """Room that is free again, and since when it was held."""
        self.held -= size
        self._held_s.observe(self._clock() - since)
        self._admit()

    def expected_wait_s(self, size: int, *, band: int, deadline: float) -> float:
        """Seconds until there may be room for a call: what is before it leaves as quickly as calls did lately."""
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
        """Give room to the most urgent while there is some; nobody overtakes a large call that waits for more."""
        while self._waiting:
            *_, size, granted = self._waiting[0]
            if not granted.done() and self.held + size > self.limit:
                return
            heapq.heappop(self._waiting)
            if not granted.done():
                self.held += size
                granted.set_result(None)
