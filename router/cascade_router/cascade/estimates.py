"""How long a pool takes for one request, from the plan until enough was seen, then from what was seen."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 64
ENOUGH: Final = 16
LEVEL: Final = 0.9


class ExecutionEstimates:
    """The 90 % quantile of the service times of each pool's latest requests."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}
        self._quantile: dict[str, float] = {}

    def observe(self, pool: str, seconds: float) -> None:
        seen = self._seen.setdefault(pool, deque(maxlen=WINDOW))
        seen.append(seconds)
        if len(seen) >= ENOUGH:
            self._quantile[pool] = sorted(seen)[int(LEVEL * (len(seen) - 1))]

    def execution_s(self, pool: str, *, planned: float) -> float:
        """Seconds that a request of this pool takes with 90 % certainty; ``planned`` until enough were seen."""
        return self._quantile.get(pool, planned)

    def keep(self, pools: set[str]) -> None:
        """Forget pools that the plan no longer has."""
        for gone in set(self._seen) - pools:
            del self._seen[gone]
            self._quantile.pop(gone, None)
