"""Turns the files that clients give into pixels for models, off the event loop and within bounds.

A file is decoded only if its header promises few enough pixels. The image is turned upright, put on white where it is
transparent, cut to the proportions of the model's images around its centre, and scaled to their size; so is the mask.
The router does this, and not the worker, so that a client hears at once that its file is wrong, and hostile files meet
no process that holds a model.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from PIL import Image, ImageOps

from cascade_api.reasons import Refusal

from .pools.clients import GivenPixels
from .requests import Edit, RequestRefused, invalid

FILE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one file."""
PIXEL_LIMIT: Final = 4096 * 4096
"""Pixels of one file: 64 MiB while it is decoded."""
UPLOADS_LIMIT: Final = 128 * 1024 * 1024
"""Bytes of all files that come over HTTP, until their images are made."""
DECODERS: Final = 2
"""Files that are decoded at a time; the others wait."""
FORMATS: Final = ("PNG", "JPEG", "WEBP")
_OPAQUE: Final = 128
"""Pixels of a mask with less alpha than this are drawn anew."""


class Upload:
    """The bytes of one request that brings files."""

    def __init__(self, owner: GivenImages) -> None:
        self._owner = owner
        self.size = 0

    def add(self, size: int) -> None:
        """Count bytes that came. Raises RequestRefused if the router holds too many."""
        if self._owner.held + size > UPLOADS_LIMIT:
            raise RequestRefused(
                Refusal.QUEUE_FULL,
                f"the router holds its limit of {UPLOADS_LIMIT} bytes of given images; ask again later",
                retry_after_s=1.0,
            )
        self.size += size
        self._owner.held += size


class GivenImages:
    """Decodes given images; one for each router."""

    def __init__(self) -> None:
        self.held = 0
        """Bytes of the files that came over HTTP."""
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="given-images")

    @contextmanager
    def upload(self) -> Iterator[Upload]:
        """Count the bytes of one request until the end of the block."""
        upload = Upload(self)
        try:
            yield upload
        finally:
            self.held -= upload.size

    async def read(self, edit: Edit, *, width: int, height: int) -> GivenPixels:
        """The pixels of what a client gives, in the size of the model's images. Raises RequestRefused."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, decode, edit, width, height)


def decode(edit: Edit, width: int, height: int) -> GivenPixels:
    """The pixels of an image and its mask, ``width`` by ``height``. Raises RequestRefused."""
    image = _open(edit.image, field="image")
    kept = None
    if edit.mask is not None:
        mask = _open(edit.mask, field="mask")
        if mask.size != image.size:
            raise invalid("mask", f"has {_by(mask)} pixels, and the image has {_by(image)}; send one of the same size")
        if not mask.has_transparency_data:
            raise invalid("mask", "has no alpha channel; make transparent what is to be drawn anew, as png or webp")
        alpha = ImageOps.fit(
            _loaded(mask, field="mask").convert("RGBA").getchannel("A"), (width, height), Image.Resampling.BOX
        )
        kept = alpha.point(lambda level: 0 if level >= _OPAQUE else 255).tobytes()
        if not any(kept):
            raise invalid("mask", "is nowhere transparent, so nothing would be drawn anew")
    fitted = ImageOps.fit(_on_white(_loaded(image, field="image")), (width, height), Image.Resampling.LANCZOS)
    return GivenPixels(edit.strength, width, height, fitted.tobytes(), kept)


def _open(file: bytes, *, field: str) -> Image.Image:
    """A file of which only the header was read. Raises RequestRefused."""
    if not file:
        raise invalid(field, "is empty; send a png, jpeg or webp file")
    if len(file) > FILE_LIMIT:
        raise invalid(field, f"has {len(file)} bytes; at most {FILE_LIMIT} are allowed")
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
    except Image.DecompressionBombError:
        raise invalid(field, f"has too many pixels; at most {PIXEL_LIMIT} are allowed") from None
    except Exception:  # Pillow raises what its readers happen to stumble over
        raise invalid(field, "is not an image that can be read; send a png, jpeg or webp file") from None
    if image.width * image.height > PIXEL_LIMIT:
        raise invalid(field, f"has {_by(image)} pixels; at most {PIXEL_LIMIT} in all are allowed, scale it down")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise invalid(field, "is animated; send one picture")
    return image


def _loaded(image: Image.Image, *, field: str) -> Image.Image:
    """The whole image, upright. Raises RequestRefused."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        raise invalid(
            field, "is damaged or cut off: its header is read, and its pixels are not; send it again"
        ) from None


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return image.convert("RGB")


def _by(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
