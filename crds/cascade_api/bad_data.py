"""Keeps account of data in Redis that cannot be used: a key's problem is logged once and counted each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MOST_KEYS: Final = 1000
"""How many keys are remembered with their problem; if there are more, some problems are logged again."""
TEXT_LIMIT: Final = 4 * 1024 * 1024
"""The most bytes of a text in Redis that are read: far more than any text of this product has."""
HASH_LIMIT: Final = 20_000
"""The most fields of a hash, or members of a set, that are read."""


class BadData:
    """Remembers the latest problem of each Redis key.

    Args:
        tell: logs a problem, as ``tell(key, why)``.
        count: counts it, as ``count(key)``.
    """

    def __init__(self, *, tell: Callable[[str, str], None], count: Callable[[str], None]) -> None:
        self._tell = tell
        self._count = count
        self._known: dict[str, str] = {}

    def found(self, key: str, why: str) -> None:
        """Record that the data under a key, or a part of it, was dropped."""
        self._count(key)
        if self._known.get(key) == why:
            return
        self._known.pop(key, None)
        self._known[key] = why
        if len(self._known) > MOST_KEYS:
            del self._known[next(iter(self._known))]
        self._tell(key, why)

    def sound(self, key: str) -> None:
        """Record that all data under a key can be used, so that its next problem is logged again."""
        self._known.pop(key, None)


def owner_and_kind(key: str) -> tuple[str, str]:
    """The cascade of a key (``-`` for none) and its kind (``queue``, ``plan``, …), as labels of metrics."""
    start, brace, rest = key.partition("{")
    cascade, closed, kind = rest.partition("}:")
    if not (brace and closed and start == "cascade:"):
        return "-", key
    return cascade, kind.partition(":")[0]
