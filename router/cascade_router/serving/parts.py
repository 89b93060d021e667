"""Bodies of answers with images in them, written in base64 a little at a time.

Base64 of an image of 3 MB takes the event loop 3 ms, and handing the 4 MB of it to the connection takes another one;
with some images at a time, each health check and each small request would wait for all of them. So a file is encoded in
pieces, when they are sent, and whatever else is ready goes on between them. It also takes less memory: the base64 of a
whole image never exists.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeAlias

Part: TypeAlias = bytes | memoryview
"""A part of a body: text as it is sent, or the view of a file, which is sent in base64."""
PIECE: Final = 3 * 16 * 1024
"""Bytes of a file that are encoded at a time: whole groups of three, so that no padding comes between the pieces."""


def length(parts: Sequence[Part]) -> int:
    """Bytes that `pieces` gives for a body."""
    return sum((len(part) + 2) // 3 * 4 if isinstance(part, memoryview) else len(part) for part in parts)


async def pieces(parts: list[Part]) -> AsyncIterator[bytes]:
    """A body bit by bit. Takes the parts out of the list, so that no image is held once it is written."""
    parts.reverse()
    while parts:
        part = parts.pop()
        if not isinstance(part, memoryview):
            yield part
            continue
        for at in range(0, len(part), PIECE):
            yield base64.b64encode(part[at : at + PIECE])
            await asyncio.sleep(0)  # others' turn, also where the connection takes everything at once
