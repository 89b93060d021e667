"""What one router knows of the loads of the pools: as last heard, and what it asked for since."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Final

from .operations import Ticket
from .work import BANDS_TOLD, NOTHING_SERVES, PoolLoad

LATELY: Final = 32
"""Entries by which it is told how often they come, and grants whose time is looked back at least."""


class Loads:
    """Loads by pool."""

    def __init__(self) -> None:
        self._heard: dict[str, PoolLoad] = {}
        self._asked: defaultdict[str, set[Ticket]] = defaultdict(set)
        """What this router waits for and the dispatcher has not replied to yet."""
        self._came: defaultdict[str, list[deque[float]]] = defaultdict(
            lambda: [deque(maxlen=LATELY) for _ in range(BANDS_TOLD)]
        )
        """When the last entries of each band that is told apart were asked for."""

    def of(self, pool: str, *, now: float, routers: int) -> PoolLoad:
        """The load as last heard, grown by what was asked for since; ``routers`` are as many as ask like this one."""
        load = self._heard.get(pool, NOTHING_SERVES)
        if not load.waiting:
            return load
        load = load._replace(taken=self._taken(pool, load.expected_wait_s / (load.waiting + 1), now, routers))
        asked = len(self._asked[pool])
        if not asked:
            return load
        # Else all that come while one reply is under way would find the same room in the queue.
        grown = (load.waiting + 1 + asked) / (load.waiting + 1)
        return load._replace(waiting=load.waiting + asked, expected_wait_s=load.expected_wait_s * grown)

    def _taken(self, pool: str, grant_s: float, now: float, routers: int) -> tuple[float, ...]:
        """Of a pool's time, what entries take that are as urgent as each band told apart, at ``grant_s`` a grant.

        The last n that came here came in so many grants' time, that of `LATELY` grants at least: n by that is the part.
        """
        parts, taken = [], 0.0
        for came in self._came[pool]:
            if came and grant_s > 0:
                taken += len(came) / max((now - came[0]) / (grant_s * routers), LATELY)
            parts.append(taken)
        return tuple(parts)

    def heard(self, loads: Mapping[str, PoolLoad]) -> None:
        """What the dispatcher said."""
        self._heard.update(loads)

    def asked(self, pool: str, ticket: Ticket, *, band: int, now: float) -> None:
        """The dispatcher is asked for a grant."""
        self._asked[pool].add(ticket)
        if band < BANDS_TOLD:
            self._came[pool][band].append(now)

    def replied(self, pool: str, ticket: Ticket) -> None:
        """The dispatcher has replied, or nobody waits for that any more."""
        self._asked[pool].discard(ticket)
