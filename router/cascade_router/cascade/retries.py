"""A budget of retries: they may be only a share of the traffic, so that failing replicas do not multiply the load."""

from __future__ import annotations

from typing import Final

EARNED_PER_REQUEST: Final = 0.1
CAPACITY: Final = 32.0


class RetryBudget:
    """Every request earns a tenth of a retry. At most 32 retries are saved, and the budget starts with as many."""

    def __init__(self) -> None:
        self.left = CAPACITY

    def earn(self) -> None:
        self.left = min(CAPACITY, self.left + EARNED_PER_REQUEST)

    def spend(self) -> None:
        self.left = max(0.0, self.left - 1)
