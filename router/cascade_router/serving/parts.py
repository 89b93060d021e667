"""Writes the bodies of answers that contain images, in base64 and in small pieces.

Encoding an image of 3 MB in base64 takes the event loop 3 ms, and passing the resulting 4 MB to the connection takes
another millisecond. With several images at a time, each health check and each small request would wait for all of them.
So a file is encoded in pieces while it is sent, and other tasks run between the pieces. This also saves memory: the
base64 of a whole image never exists.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeAlias

Part: TypeAlias = bytes | memoryview
"""A part of a body: bytes are sent as they are, a view of a file is sent in base64."""
PIECE: Final = 3 * 16 * 1024
"""How many bytes of a file are encoded at a time: a multiple of three, so that there is no padding between pieces."""


def length(parts: Sequence[Part]) -> int:
    """How many bytes `pieces` yields for a body."""
    return sum((len(part) + 2) // 3 * 4 if isinstance(part, memoryview) else len(part) for part in parts)


async def pieces(parts: list[Part]) -> AsyncIterator[bytes]:
    """Yield a body piece by piece. Removes the parts from the list, so that each image is released once written."""
    parts.reverse()
    while parts:
        part = parts.pop()
        if not isinstance(part, memoryview):
            yield part
            continue
        for at in range(0, len(part), PIECE):
            yield base64.b64encode(part[at : at + PIECE])
            await asyncio.sleep(0)  # lets other tasks run, even if the connection takes everything at once
