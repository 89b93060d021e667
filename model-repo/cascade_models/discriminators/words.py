"""Converts prompts to numbers: hashed words for networks trained from scratch, CLIP's byte pairs for CLIP.

This module runs in Triton's environment, so it only uses the standard library and numpy.
"""

from __future__ import annotations

import functools
import html
import itertools
import json
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

HASHED_LENGTH: Final = 48
"""The most words and pairs of neighbouring words of a prompt; the rest is cut off."""
BUCKETS: Final = 8192

_WORD: Final = re.compile(r"[^\W_]+")
_PIECE: Final = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE
)
_START, _END = "<|startoftext|>", "<|endoftext|>"


def hashed(prompts: Sequence[str], *, length: int = HASHED_LENGTH, buckets: int = BUCKETS) -> Integers:
    """Numbers ``[N, length]``: 1 to ``buckets`` for each word and each pair of neighbours, then zeros."""
    rows = np.zeros((len(prompts), length), dtype=np.int64)
    for row, prompt in zip(rows, prompts, strict=True):
        words = _WORD.findall(prompt.lower())
        pairs = [f"{one} {other}" for one, other in itertools.pairwise(words)]
        found = [1 + zlib.crc32(text.encode()) % buckets for text in (*words, *pairs)][:length]
        row[: len(found)] = found
    return rows


class ClipTokens:
    """CLIP's byte-pair encoding, lower case, from the ``vocab.json`` and ``merges.txt`` of a model."""

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], *, length: int) -> None:
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._length = length
        self._start, self.end = vocabulary[_START], vocabulary[_END]
        self._parts = functools.lru_cache(maxsize=50_000)(self._merge)

    @classmethod
    def read(cls, folder: Path, *, length: int) -> ClipTokens:
        """The encoding of a folder; raises ValueError or OSError if its files cannot be read."""
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        if not isinstance(vocabulary, dict) or not {_START, _END} <= vocabulary.keys():
            raise ValueError(f"{folder / 'vocab.json'} is not CLIP's: it lacks {_START} or {_END}")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        if any(len(pair) != 2 for pair in merges):
            raise ValueError(f"{folder / 'merges.txt'} is not a list of pairs")
        return cls(vocabulary, [(pair[0], pair[1]) for pair in merges], length=length)

    def encode(self, prompts: Sequence[str]) -> Integers:
        """Numbers ``[N, length]``: start, the prompt's pieces, then ends; a prompt that is too long is cut off."""
        rows = np.full((len(prompts), self._length), self.end, dtype=np.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            text = " ".join(unicodedata.normalize("NFC", html.unescape(prompt)).split()).lower()
            pieces = [part for word in _PIECE.findall(text) for part in self._parts(word)]
            kept = [self._start, *(self._vocabulary.get(piece, self.end) for piece in pieces)][: self._length - 1]
            row[: len(kept)] = kept
        return rows

    def _merge(self, word: str) -> tuple[str, ...]:
        """A word as pieces of the vocabulary, by joining pairs of neighbours in the order in which they were learnt."""
        symbols = _bytes()
        parts = [symbols[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        return tuple(parts)


@functools.cache
def _bytes() -> dict[int, str]:
    """The printable character by which byte-pair vocabularies write each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
