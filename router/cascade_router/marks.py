"""Takes the C2PA manifest out of files of images that are only shown meanwhile; pure.

A worker marks every file that it answers with, since it does not know which light image the router will escalate. A
manifest is a part of the file of its own in each form, and goes without touching the pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final

Part = tuple[int, int, bool]
"""Where a part of a file begins and ends, and whether it belongs to a manifest."""


def unmarked(file: memoryview, form: str) -> bytes:
    """The file without its manifest; what is not a file of this form stays as it is."""
    try:
        parts = list(_PARTS[form](file))
    except (struct.error, IndexError):
        return bytes(file)
    if parts[-1][1] != len(file):
        return bytes(file)
    kept = b"".join(file[begin:end] for begin, end, marks in parts if not marks)
    if form == "webp":
        return kept[:4] + struct.pack("<I", len(kept) - 8) + kept[8:]
    return kept


def _png(file: memoryview) -> Iterator[Part]:
    """The signature, and chunks: length, name, data and check sum."""
    yield 0, 8, False
    at = 8
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        yield at, at + length + 12, bytes(file[at + 4 : at + 8]) == b"caBX"
        at += length + 12


def _jpeg(file: memoryview) -> Iterator[Part]:
    """The first marker, segments with their length, and all from the scan on; manifests are in APP11."""
    yield 0, 2, False
    at = 2
    while file[at] == 0xFF and file[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", file, at + 2)
        yield at, at + 2 + length, file[at + 1] == 0xEB and bytes(file[at + 4 : at + 6]) == b"JP"
        at += 2 + length
    yield at, len(file), False


def _webp(file: memoryview) -> Iterator[Part]:
    """The head with the length of the whole, and chunks: name, length and data, filled up to an even length."""
    yield 0, 12, False
    at = 12
    while at < len(file):
        (length,) = struct.unpack_from("<I", file, at + 4)
        end = at + 8 + length + length % 2
        yield at, end, bytes(file[at : at + 4]) == b"C2PA"
        at = end


_PARTS: Final[Mapping[str, Callable[[memoryview], Iterator[Part]]]] = {"png": _png, "jpeg": _jpeg, "webp": _webp}
