"""What one router knows of the loads of the pools: as last heard, and what it asked for since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from .operations import Ticket
from .work import NOTHING_SERVES, PoolLoad


class Loads:
    """Loads by pool."""

    def __init__(self) -> None:
        self._heard: dict[str, PoolLoad] = {}
        self._asked: defaultdict[str, set[Ticket]] = defaultdict(set)
        """What this router waits for and the dispatcher has not replied to yet."""

    def of(self, pool: str) -> PoolLoad:
        """The load as last heard, grown by what was asked for since."""
        load = self._heard.get(pool, NOTHING_SERVES)
        asked = len(self._asked[pool])
        if not asked or not load.waiting:
            return load
        # Else all that come while one reply is under way would find the same room in the queue.
        grown = (load.waiting + 1 + asked) / (load.waiting + 1)
        return load._replace(waiting=load.waiting + asked, expected_wait_s=load.expected_wait_s * grown)

    def heard(self, loads: Mapping[str, PoolLoad]) -> None:
        """What the dispatcher said."""
        self._heard.update(loads)

    def asked(self, pool: str, ticket: Ticket) -> None:
        """The dispatcher is asked for a grant."""
        self._asked[pool].add(ticket)

    def replied(self, pool: str, ticket: Ticket) -> None:
        """The dispatcher has replied, or nobody waits for that any more."""
        self._asked[pool].discard(ticket)
