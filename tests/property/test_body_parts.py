"""Bodies with images are the same as with plain base64, and let other tasks run in between."""

from __future__ import annotations

import asyncio
import base64
import os

from hypothesis import given
from hypothesis import strategies as st

from cascade_router.serving.parts import PIECE, Part, length, pieces

SIZES = st.one_of(st.integers(0, 10), st.integers(PIECE - 3, PIECE + 3), st.integers(2 * PIECE - 3, 2 * PIECE + 3))
TEXTS = st.binary(max_size=10)
PARTS = st.lists(TEXTS | SIZES.map(os.urandom).map(memoryview), max_size=4)


async def written(parts: list[Part]) -> bytes:
    return b"".join([piece async for piece in pieces(parts)])


@given(PARTS)
def test_a_file_comes_out_in_base64_and_text_as_it_is(parts: list[Part]) -> None:
    whole = b"".join(base64.b64encode(part) if isinstance(part, memoryview) else part for part in parts)
    assert length(parts) == len(whole)
    assert asyncio.run(written(parts)) == whole
    assert parts == []


async def test_others_have_their_turn_after_each_piece() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.ensure_future(other())
    try:
        await written([memoryview(bytes(20 * PIECE))])
    finally:
        running.cancel()
    assert turns >= 20
