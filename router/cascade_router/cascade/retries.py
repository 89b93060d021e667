"""A budget of retries: a share of the traffic, so that failing replicas are not answered with a storm of retries."""

from __future__ import annotations

from typing import Final

EARNED_PER_REQUEST: Final = 0.1
CAPACITY: Final = 32.0


class RetryBudget:
    """Every request earns a tenth of a retry; at most 32 are saved up, and that many are there at the start."""

    def __init__(self) -> None:
        self.left = CAPACITY

    def earn(self) -> None:
        self.left = min(CAPACITY, self.left + EARNED_PER_REQUEST)

    def spend(self) -> None:
        self.left = max(0.0, self.left - 1)
