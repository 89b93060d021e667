"""Bookkeeping of what was found in Redis and cannot be used: a key's problem is told once and counted each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MOST_KEYS: Final = 1000
"""Keys whose problem is remembered; of more, some are told again."""
TEXT_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a text in Redis that are read at most: far more than any of ours has."""
HASH_LIMIT: Final = 20_000
"""Fields of a hash, or members of a set, that are read at most."""


class BadData:
    """Problems by key, with the Redis keys as names.

    Args:
        tell: names a problem in the log, as ``tell(key, why)``.
        count: counts it, as ``count(key)``.
    """

    def __init__(self, *, tell: Callable[[str, str], None], count: Callable[[str], None]) -> None:
        self._tell = tell
        self._count = count
        self._known: dict[str, str] = {}

    def found(self, key: str, why: str) -> None:
        """What a key holds, or a part of it, was dropped."""
        self._count(key)
        if self._known.get(key) == why:
            return
        self._known.pop(key, None)
        self._known[key] = why
        if len(self._known) > MOST_KEYS:
            del self._known[next(iter(self._known))]
        self._tell(key, why)

    def sound(self, key: str) -> None:
        """A key holds nothing but what is ours: its next problem is a new one."""
        self._known.pop(key, None)


def owner_and_kind(key: str) -> tuple[str, str]:
    """Which cascade a key belongs to (``-`` for none) and what it is, as metrics label it: ``queue``, ``plan``, …"""
    start, brace, rest = key.partition("{")
    cascade, closed, kind = rest.partition("}:")
    if not (brace and closed and start == "cascade:"):
        return "-", key
    return cascade, kind.partition(":")[0]
