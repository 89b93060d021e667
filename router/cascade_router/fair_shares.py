"""Shares the workers' time between tenants when there is more work than workers (pure).

The order of the queues stays as it is, by priority and deadline. Instead, a tenant that has more than its share of the
work in hand gets no more of it until the queues are short again. For example, two tenants with the same weight share
four workers, and one of them asks for ten times what the workers can do. It fills the workers, and a queue of about one
heavy image for each worker. What goes beyond that is refused, since it has more than half of the work in hand. So the
other tenant's requests wait for about one heavy image at most, and are admitted while it has less than half.

A tenant counts if it has work in hand or had some in the last minute. A tenant alone may fill the queues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CONGESTED: Final = 0.25
"""There is more work than workers if requests wait longer than this part of the time of an image. Whatever is admitted
before that makes the wait longer by one image at most; with a smaller part, workers would be idle for moments."""
ACTIVE_S: Final = 60.0
"""How long a tenant counts after its last work, so that the queues are still short when it asks again."""


class FairShares:
    """The work that the tenants of one cascade have in hand in one router, in accelerator-seconds."""

    def __init__(self) -> None:
        self._work: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._left: dict[str, float] = {}
        """When tenants without work in hand had some last."""

    def enter(self, tenant: str, work_s: float) -> None:
        """Add the work of one call."""
        self._work[tenant] = self._work.get(tenant, 0.0) + work_s
        self._calls[tenant] = self._calls.get(tenant, 0) + 1
        self._left.pop(tenant, None)

    def leave(self, tenant: str, work_s: float, *, now: float) -> None:
        """Take the work of a call away again, as it was entered."""
        self._calls[tenant] -= 1
        self._work[tenant] -= work_s
        if self._calls[tenant] == 0:
            del self._calls[tenant], self._work[tenant]
            self._left[tenant] = now

    def is_over(self, tenant: str, *, weight_of: Callable[[str], int], now: float) -> bool:
        """Whether a tenant has more than its share of the work in hand, by the weights of those that count now."""
        self._left = {name: at for name, at in self._left.items() if now - at <= ACTIVE_S}
        total_s, mine_s = sum(self._work.values()), self._work.get(tenant, 0.0)
        weights = {name: weight_of(name) for name in (*self._work, *self._left, tenant)}
        return mine_s * sum(weights.values()) > total_s * weights[tenant] * (1 + 1e-9)
