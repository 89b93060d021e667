"""Sums of fitted weights over the words of a prompt; this takes microseconds and needs no language model.

A word that was seen in fitting has its own weight. The weight of any other word follows from its last letters and its
length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MAX_WORDS: Final = 128
"""Most words that are looked at. Text encoders see fewer, and the limit bounds the time that a huge prompt takes."""
SUFFIX: Final = 3
"""Number of last letters that determine the weight of an unknown word."""

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words_of(prompt: str) -> list[str]:
    """The words of a prompt in lower case, without punctuation; a word may contain hyphens and apostrophes."""
    return _WORD.findall(prompt[: MAX_WORDS * 16].lower())[:MAX_WORDS]


@dataclass(frozen=True, slots=True)
class WordWeights:
    """``intercept`` plus a weight for every word."""

    intercept: float
    known: Mapping[str, float]
    suffixes: Mapping[str, float]
    """Added for unknown words with these last letters."""
    unknown: float
    """Weight of every unknown word."""
    unknown_letter: float
    """Weight of every letter of an unknown word."""

    def total(self, words: Iterable[str]) -> float:
        """The sum for a prompt's words."""
        known, suffixes = self.known, self.suffixes
        total = self.intercept
        for word in words:
            weight = known.get(word)
            if weight is None:
                weight = self.unknown + self.unknown_letter * len(word) + suffixes.get(word[-SUFFIX:], 0.0)
            total += weight
        return total


def combined(parts: Sequence[tuple[float, WordWeights]]) -> WordWeights:
    """One table for the weighted sum of several tables with the same words."""
    words = parts[0][1].known if parts else {}
    suffixes = parts[0][1].suffixes if parts else {}
    return WordWeights(
        intercept=sum(factor * table.intercept for factor, table in parts),
        known={word: sum(factor * table.known[word] for factor, table in parts) for word in words},
        suffixes={end: sum(factor * table.suffixes[end] for factor, table in parts) for end in suffixes},
        unknown=sum(factor * table.unknown for factor, table in parts),
        unknown_letter=sum(factor * table.unknown_letter for factor, table in parts),
    )
