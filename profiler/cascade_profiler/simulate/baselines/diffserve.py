"""DiffServe as in its code: one fixed pair, no direct prompts, and the largest escalation share that its program
admits.
"""

from __future__ import annotations

import math

from ...frontier.profiles import Charges
from ..outcomes import DrawnRow
from .planners import BATCHES, Level, PublishedTimes, Signals, SolvedPlan, Spread

SMOOTHING = 1 / 3.1
"""Weight of the newest sample in an exponentially weighted mean with a centre of mass of 2.1 samples."""
THRESHOLDS = 201
"""Points of the threshold grid; a threshold is expressed as the share of prompts below it."""
_HOPELESS_BATCH = 16


class PublishedDiffServe:
    """The planner of DiffServe; it maximises the threshold, as its measure of quality."""

    name = "diffserve"
    smoothing = SMOOTHING
    margin = 1.2
    drop_after = 1.5
    spread: Spread = "random"

    def __init__(
        self,
        *,
        light: str,
        heavy: str,
        charges: Charges,
        times: PublishedTimes,
        workers: int,
        objective_s: float,
    ) -> None:
        self._light = light
        self._heavy = heavy
        self._charges = charges
        self._times = times
        self._workers = workers
        self._objective_s = objective_s

    def start(self) -> SolvedPlan:
        """Half of the workers for each model, and every image escalates."""
        half = math.ceil(self._workers / 2)
        return self._solved(1.0, half, 8, 8)

    def solve(self, signals: Signals) -> SolvedPlan:
        best: tuple[float, int, int, int] | None = None
        queues = signals.queue_s.get(self._light, 0.0) + signals.queue_s.get(self._heavy, 0.0)
        for light_batch in BATCHES:
            light_s = self._times.batch_s(self._light, light_batch)
            light = math.ceil(signals.demand * light_s / light_batch - 1e-9)
            for heavy_batch in BATCHES:
                heavy_s = self._times.batch_s(self._heavy, heavy_batch)
                if light >= self._workers or light_s + heavy_s + queues > self._objective_s:
                    continue
                rate = (self._workers - light) * heavy_batch / heavy_s
                share = math.floor(min(rate / signals.demand, 1.0) * (THRESHOLDS - 1)) / (THRESHOLDS - 1)
                if best is None or share > best[0]:
                    best = (share, light, light_batch, heavy_batch)
        if best is None:
            return self._solved(0.0, self._workers, _HOPELESS_BATCH, 1)
        return self._solved(*best)

    def _solved(self, share: float, light: int, light_batch: int, heavy_batch: int) -> SolvedPlan:
        row = DrawnRow((self._light, self._heavy), 0.0, share)
        levels = (
            Level(self._light, light, light_batch),
            Level(self._heavy, self._workers - light, heavy_batch),
        )
        # What it reports: heavy/(light + heavy) taken for the share of heavy, where heavy/light is.
        planned = self._charges.chain((self._light, self._heavy), direct=0.0, escalation=share / (1 + share))
        return SolvedPlan(levels, row, planned)


class PublishedDiffServeStatic(PublishedDiffServe):
    """DiffServe provisioned once, for the peak of the trace."""

    name = "diffserve-static"

    def __init__(
        self,
        *,
        light: str,
        heavy: str,
        charges: Charges,
        times: PublishedTimes,
        workers: int,
        objective_s: float,
        peak_rate: float,
    ) -> None:
        super().__init__(
            light=light, heavy=heavy, charges=charges, times=times, workers=workers, objective_s=objective_s
        )
        self._fixed = super().solve(Signals(peak_rate, {}, {}))

    def start(self) -> SolvedPlan:
        return self._fixed

    def solve(self, signals: Signals) -> SolvedPlan:
        return self._fixed
