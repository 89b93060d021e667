"""Estimates from recent measurements: of requests and batches of a pool, the time after an image, and sizes asked for.

An estimate is a quantile (by default 90 %) of the last `WINDOW` values, once at least `ENOUGH` were seen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from cascade_api.report import BatchTime

REMEMBERED_S: Final = 300.0
"""For how long the sizes of requests say something about the next ones: over less, chance hides it."""
NOBODY: Final = 1e-3
WINDOW: Final = 64
ENOUGH: Final = 16
LEVEL: Final = 0.9
LATELY_S: Final = 60.0
"""If the last batch of a pool is older than this, its batch times are not reported."""


class Recent:
    """A quantile of the latest observed times."""

    def __init__(self, *, level: float = LEVEL) -> None:
        self._level = level
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self.quantile: float | None = None
        """Seconds; None until enough values were seen."""

    def observe(self, seconds: float) -> None:
        self._seen.append(seconds)
        if len(self._seen) >= ENOUGH:
            self.quantile = sorted(self._seen)[int(self._level * (len(self._seen) - 1))]


class ArrivedSizes:
    """How many requests came by size, of which one of t seconds ago counts as exp(-t / `REMEMBERED_S`)."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._at = 0.0

    def observe(self, size: str, *, now: float) -> None:
        """Note a request for an image of a size."""
        self._counts = self.counts(now=now)
        self._at = now
        self._counts[size] = self._counts.get(size, 0.0) + 1

    def counts(self, *, now: float) -> dict[str, float]:
        """The counts at ``now``; sizes for which hardly anybody has asked for long are left out."""
        kept = math.exp(-max(now - self._at, 0.0) / REMEMBERED_S)
        return {size: count * kept for size, count in self._counts.items() if count * kept > NOBODY}


class LatestBatches:
    """The latest batches of each pool, as workers reported them."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[BatchTime]] = {}
        self._last: dict[str, float] = {}

    def observe(self, pool: str, batch: BatchTime, *, now: float) -> None:
        """Note a batch that a worker of the pool reported at ``now``."""
        self._seen.setdefault(pool, deque(maxlen=WINDOW)).append(batch)
        self._last[pool] = now

    def median(self, pool: str, *, planned_s: Callable[[int], float], now: float) -> BatchTime | None:
        """The batch whose ratio of measured to planned time is the median; None without enough recent batches.

        ``planned_s`` gives the planned seconds of a batch of so many images.
        """
        seen = self._seen.get(pool, ())
        if len(seen) < ENOUGH or now - self._last[pool] > LATELY_S:
            return None
        return sorted(seen, key=lambda batch: batch.seconds / planned_s(batch.images))[len(seen) // 2]

    def keep(self, pools: set[str]) -> None:
        """Forget pools that the plan no longer has."""
        for gone in set(self._seen) - pools:
            del self._seen[gone], self._last[gone]


class ExecutionEstimates:
    """The 90 % quantile of the service times of each pool's latest requests."""

    def __init__(self) -> None:
        self._pools: dict[str, Recent] = {}

    def observe(self, pool: str, seconds: float) -> None:
        self._pools.setdefault(pool, Recent()).observe(seconds)

    def execution_s(self, pool: str, *, planned: float) -> float:
        """Seconds that 90 % of this pool's requests do not exceed; ``planned`` until enough requests were seen."""
        seen = self._pools.get(pool)
        return planned if seen is None or seen.quantile is None else seen.quantile

    def keep(self, pools: set[str]) -> None:
        """Forget pools that the plan no longer has."""
        for gone in set(self._pools) - pools:
            del self._pools[gone]
