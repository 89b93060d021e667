"""What one router knows about the load of each pool: the last reply of the dispatcher, and what it asked for since.

Replies are up to a second old. So that a burst of requests does not find the same room in the queue many times over,
requests that the dispatcher has not yet answered are added to the waiting ones.

For low priorities it matters how fast more urgent entries arrive, since these overtake. The part of the pool's time
that they take is estimated from the last n entries of such a band that came to this router, with k routers:

    part = n / max(seconds since the first of them / (seconds per grant · k), LATELY)
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Final

from .operations import Ticket
from .work import BANDS_TOLD, NOTHING_SERVES, PoolLoad

LATELY: Final = 32
"""Arrivals of each urgent band that are remembered; also the fewest grants over whose time they are averaged."""


class Loads:
    """The loads of all pools, as one router knows them."""

    def __init__(self) -> None:
        self._heard: dict[str, PoolLoad] = {}
        self._asked: defaultdict[str, set[Ticket]] = defaultdict(set)
        """Tickets that this router has asked a grant for, and that the dispatcher has not yet answered."""
        self._came: defaultdict[str, list[deque[float]]] = defaultdict(
            lambda: [deque(maxlen=LATELY) for _ in range(BANDS_TOLD)]
        )
        """When the last entries of each of the first `BANDS_TOLD` bands were asked for."""

    def of(self, pool: str, *, now: float, routers: int) -> PoolLoad:
        """The load as last heard, plus what was asked for since; ``routers`` is how many routers ask like this one."""
        load = self._heard.get(pool, NOTHING_SERVES)
        if not load.waiting:
            return load
        load = load._replace(taken=self._taken(pool, load.expected_wait_s / (load.waiting + 1), now, routers))
        asked = len(self._asked[pool])
        if not asked:
            return load
        # Otherwise all requests that arrive before the next reply would find the same room in the queue.
        grown = (load.waiting + 1 + asked) / (load.waiting + 1)
        return load._replace(waiting=load.waiting + asked, expected_wait_s=load.expected_wait_s * grown)

    def _taken(self, pool: str, grant_s: float, now: float, routers: int) -> tuple[float, ...]:
        """The part of a pool's time taken by entries of band 0, of bands 0 to 1, and so on; formula in the module.

        ``grant_s`` is the seconds per grant of the pool.
        """
        parts, taken = [], 0.0
        for came in self._came[pool]:
            if came and grant_s > 0:
                taken += len(came) / max((now - came[0]) / (grant_s * routers), LATELY)
            parts.append(taken)
        return tuple(parts)

    def heard(self, loads: Mapping[str, PoolLoad]) -> None:
        """Take over the loads that the dispatcher has replied."""
        self._heard.update(loads)

    def asked(self, pool: str, ticket: Ticket, *, band: int, now: float) -> None:
        """Note that the dispatcher is asked for a grant."""
        self._asked[pool].add(ticket)
        if band < BANDS_TOLD:
            self._came[pool][band].append(now)

    def replied(self, pool: str, ticket: Ticket) -> None:
        """Note that the dispatcher has replied, or that nobody waits for this ticket any more."""
        self._asked[pool].discard(ticket)
