"""Stratified draws: low-discrepancy sequences instead of independent coin flips, so that small samples keep the shares.

Draw n is (start + n·step) mod 1. For example, if a row has a share of 0.3, about 3 of any 10 successive draws choose
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Steps of the additive recurrence with the lowest discrepancy in three dimensions (powers of the inverse of the root
# of x^4 = x + 1): successive draws along one of them are evenly spread, and the three are not in step with each other.
_ROOT: Final = 1.2207440846057596
ROW_STEP: Final = 1 / _ROOT
DIRECT_STEP: Final = 1 / _ROOT**2
ESCALATION_STEP: Final = 1 / _ROOT**3


class EvenDraws:
    """An endless sequence of numbers in [0, 1); successive numbers are spread evenly.

    Args:
        step: an irrational number, the distance between two draws modulo 1.
        start: where it begins, in [0, 1). It differs between routers, so that all of them together are even, too.
    """

    def __init__(self, *, step: float, start: float = 0.0) -> None:
        self._step = step
        self._at = start % 1.0

    def next(self) -> float:
        self._at = (self._at + self._step) % 1.0
        return self._at


def draw_row(shares: Sequence[float], draw: float) -> int:
    """The index of the row on which ``draw`` in [0, 1) falls; rows divide this interval by their shares, in order."""
    upper = 0.0
    for index, share in enumerate(shares):
        upper += share
        if draw < upper:
            return index
    return len(shares) - 1
