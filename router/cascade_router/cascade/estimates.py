"""How long things take, from what was seen of them lately: requests of a pool, and what comes after an image."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 64
ENOUGH: Final = 16
LEVEL: Final = 0.9
LATELY_S: Final = 60.0
"""What was seen longer ago is no news."""


class Recent:
    """A quantile of the latest times that were seen."""

    def __init__(self, *, level: float = LEVEL) -> None:
        self._level = level
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self.quantile: float | None = None
        """Seconds; None until enough were seen."""

    def observe(self, seconds: float) -> None:
        self._seen.append(seconds)
        self.quantile = self.at(self._level)

    def at(self, level: float) -> float | None:
        """Another quantile."""
        return sorted(self._seen)[int(level * (len(self._seen) - 1))] if len(self._seen) >= ENOUGH else None


class ExecutionEstimates:
    """The service times of each pool's latest requests: how long each was with a worker."""

    def __init__(self) -> None:
        self._pools: dict[str, Recent] = {}
        self._last: dict[str, float] = {}

    def observe(self, pool: str, seconds: float, *, now: float) -> None:
        """A request of a pool was with a worker for so long, until ``now``."""
        self._pools.setdefault(pool, Recent()).observe(seconds)
        self._last[pool] = now

    def execution_s(self, pool: str, *, planned: float) -> float:
        """Seconds that a request of this pool takes with 90 % certainty; ``planned`` until enough were seen."""
        seen = self._pools.get(pool)
        return planned if seen is None or seen.quantile is None else seen.quantile

    def medians_s(self, *, now: float) -> dict[str, float]:
        """The median of each pool that served a request lately, and enough of them."""
        lately = (pool for pool, at in self._last.items() if now - at <= LATELY_S)
        return {pool: median for pool in lately if (median := self._pools[pool].at(0.5)) is not None}

    def keep(self, pools: set[str]) -> None:
        """Forget all other pools."""
        for gone in set(self._pools) - pools:
            del self._pools[gone], self._last[gone]
