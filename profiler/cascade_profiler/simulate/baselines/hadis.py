"""HADIS as in its code: it tries all rows of its table with all pairs of batch sizes, sizes the light stage for every
prompt, and compares the slowest path with the objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..outcomes import DrawnRow
from .planners import BATCHES, Level, PublishedTimes, Signals, SolvedPlan, Spread

SMOOTHING = 1 - 2 ** (-1 / 3)
"""Weight of the newest sample, for a half-life of three samples."""


@dataclass(frozen=True)
class TableRow:
    """A row of the planner's table."""

    row: DrawnRow
    value: float
    """Quality; more is better."""
    metric: float


class PublishedHadis:
    """The planner of HADIS, over ``workers`` accelerators."""

    name = "hadis"
    smoothing = SMOOTHING
    margin = 1.05
    drop_after = 1.5
    spread: Spread = "random"

    def __init__(
        self,
        rows: Sequence[TableRow],
        *,
        variants: Sequence[str],
        times: PublishedTimes,
        workers: int,
        objective_s: float,
    ) -> None:
        """``variants``: cheapest first."""
        self._rows = sorted(rows, key=lambda r: -r.value)
        self._lightest = variants[0]
        self._second = variants[1]
        self._times = times
        self._workers = workers
        self._objective_s = objective_s

    def solve(self, signals: Signals) -> SolvedPlan:
        for entry in self._rows:
            levels = self._levels(entry.row, signals)
            if levels is not None:
                return SolvedPlan(levels, entry.row, entry.metric)
        return self.start()

    def start(self) -> SolvedPlan:
        """All workers on the lightest model; this is also the plan if no row fits."""
        row = DrawnRow((self._lightest, self._second), 0.0, 0.0)
        worst = min(self._rows, key=lambda r: r.value)
        return SolvedPlan((Level(self._lightest, self._workers, BATCHES[-1]),), row, worst.metric)

    def _levels(self, row: DrawnRow, signals: Signals) -> tuple[Level, ...] | None:
        heavy_share = row.direct + (1 - row.direct) * row.escalation
        light_name, heavy_name = row.chain
        queues = signals.queue_s.get(light_name, 0.0) + signals.queue_s.get(heavy_name, 0.0)
        for light_batch in BATCHES:
            light_s = self._times.believed_s(light_name, light_batch)
            light = math.ceil(signals.demand * light_s / light_batch - 1e-9)
            if light > self._workers:
                continue
            for heavy_batch in BATCHES:
                heavy_s = self._times.believed_s(heavy_name, heavy_batch)
                if light_s + heavy_s + queues > self._objective_s:
                    break
                heavy = math.ceil(signals.demand * heavy_share * heavy_s / heavy_batch - 1e-9)
                if light + heavy <= self._workers:
                    spare = self._workers - light - heavy
                    return Level(light_name, light, light_batch), Level(heavy_name, heavy + spare, heavy_batch)
        return None


class PublishedHadisJsq(PublishedHadis):
    """The planner of HADIS, in a system that gives each query to the worker with the shortest queue."""

    name = "hadis-jsq"
    spread: Spread = "shortest-queue"
