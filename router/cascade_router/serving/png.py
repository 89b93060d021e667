"""PNG bytes of an image; large ones are encoded beside the event loop."""

from __future__ import annotations

import asyncio
import io
from typing import Final

from PIL import Image as Pillow

from ..pools.clients import Image

_INLINE_PIXELS: Final = 64 * 64


async def encode_png(image: Image) -> bytes:
    if image.height * image.width <= _INLINE_PIXELS:
        return _encode(image)
    return await asyncio.to_thread(_encode, image)


def _encode(image: Image) -> bytes:
    target = io.BytesIO()
    Pillow.frombytes("RGB", (image.width, image.height), image.pixels).save(target, "PNG", compress_level=3)
    return target.getvalue()
