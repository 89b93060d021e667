"""Reads the bodies of HTTP requests: not too long, soon enough, and forms with files that stay in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ..given_images import FILE_LIMIT, Upload
from ..requests import invalid
from .openai import Form

BODY_S: Final = 30.0
"""How long a client may take to send a body."""
CLOSE: Final = {"connection": "close"}
FORM_LIMIT: Final = FILE_LIMIT + 4 * 1024 * 1024
"""Bytes of a form: an image of the greatest size, and a mask, which are hardly ever large together."""
_TEXT_LIMIT: Final = 256 * 1024
_FIELDS_LIMIT: Final = 64
_IMAGE: Final = ("image", "image[]")
"""Names of the part with the image; clients that may send several use the second one."""
_FILES: Final = (*_IMAGE, "mask")


class _InMemory(MultiPartParser):
    """Keeps files in memory: they are bounded, and the router has no disk to write to."""

    spool_max_size = FORM_LIMIT + 1


async def bounded(request: Request, *, limit: int) -> AsyncGenerator[bytes, None]:
    """The pieces of a body, if it is not too long and comes soon enough. Raises HTTPException."""
    length, until = 0, asyncio.get_running_loop().time() + BODY_S
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(until):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {BODY_S:g} s", CLOSE) from None
        if piece is None:
            return
        length += len(piece)
        if length > limit:
            raise HTTPException(413, f"the body is longer than {limit} bytes", CLOSE)
        yield piece


async def read_form(request: Request, upload: Upload) -> Form:
    """The parts of a multipart body. Raises HTTPException, or RequestRefused, which names the part."""
    parser = _InMemory(
        request.headers,
        _counted(request, upload),
        max_files=_FIELDS_LIMIT,
        max_fields=_FIELDS_LIMIT,
        max_part_size=_TEXT_LIMIT,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid("body", f"is not a form that can be read ({error.message}); send multipart/form-data") from None
    try:
        return await _sorted(form.multi_items())
    finally:
        await form.close()


async def _counted(request: Request, upload: Upload) -> AsyncGenerator[bytes, None]:
    async for piece in bounded(request, limit=FORM_LIMIT):
        upload.add(len(piece))
        yield piece


async def _sorted(parts: list[tuple[str, UploadFile | str]]) -> Form:
    """The form of these parts; each may come once."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, part in parts:
        short = name[:80]
        known = "image" if name in _IMAGE else name
        if known in files and known == "image":
            raise invalid("image", "is given more than once; an edit takes one image")
        if known in files or name in fields:
            raise invalid(short, "is given more than once; send it once")
        if isinstance(part, UploadFile):
            if name not in _FILES:
                raise invalid(short, "is a file; only image and mask are, send it as text")
            files[known] = await part.read()
        elif name in _FILES:
            raise invalid(known, "is text; send a png, jpeg or webp file")
        else:
            fields[name] = part
    if "image" not in files:
        raise invalid("image", "is missing; send a png, jpeg or webp file, or use /v1/images/generations")
    return Form(fields, files["image"], files.get("mask"))
