"""Waiting for a condition instead of sleeping: fails with what was seen last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 120.0
"""How long to wait for a condition that an idle machine would reach within a moment."""


class StoppedClock:
    """Lets time pass when the test says so; time limits that other processes get are not affected."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_for(look: Callable[[], T | None], *, what: str, within_s: float = PATIENCE_S, every_s: float = 0.02) -> T:
    """The first true value of ``look()``; AssertionError with the last one after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s (last seen: {seen!r})"
        time.sleep(every_s)


async def eventually(
    look: Callable[[], T | Awaitable[T | None] | None], *, what: str, within_s: float = PATIENCE_S
) -> T:
    """The same for a condition that depends on the running event loop."""
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s (last seen: {seen!r})"
        await asyncio.sleep(0.01)
