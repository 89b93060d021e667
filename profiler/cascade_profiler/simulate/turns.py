"""Who has the device of a worker when batches of several variants are under way there."""

from __future__ import annotations

from enum import Enum


class Turns(str, Enum):
    """One of the rules that `shared_workers` describes."""

    SHORT_FIRST = "short-first"
    EVEN = "even"

    def __str__(self) -> str:
        return self.value
