"""How long things take, from what was seen of them lately: requests of a pool, and what comes after an image."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 64
ENOUGH: Final = 16
LEVEL: Final = 0.9


class Recent:
    """A quantile of the latest times that were seen."""

    def __init__(self, *, level: float = LEVEL) -> None:
        self._level = level
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self.quantile: float | None = None
        """Seconds; None until enough were seen."""

    def observe(self, seconds: float) -> None:
        self._seen.append(seconds)
        if len(self._seen) >= ENOUGH:
            self.quantile = sorted(self._seen)[int(self._level * (len(self._seen) - 1))]


class ExecutionEstimates:
    """The 90 % quantile of the service times of each pool's latest requests."""

    def __init__(self) -> None:
        self._pools: dict[str, Recent] = {}

    def observe(self, pool: str, seconds: float) -> None:
        self._pools.setdefault(pool, Recent()).observe(seconds)

    def execution_s(self, pool: str, *, planned: float) -> float:
        """Seconds that a request of this pool takes with 90 % certainty; ``planned`` until enough were seen."""
        seen = self._pools.get(pool)
        return planned if seen is None or seen.quantile is None else seen.quantile

    def keep(self, pools: set[str]) -> None:
        """Forget pools that the plan no longer has."""
        for gone in set(self._pools) - pools:
            del self._pools[gone]
