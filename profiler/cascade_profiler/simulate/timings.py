"""How long batches, starts and switches take in a simulation, from a profile."""

from __future__ import annotations

import math
import random
from typing import Final

from cascade_api.batches import batch_seconds
from cascade_api.profile import ProfileSpec, Startup
from cascade_operator.snapshot import apart

_P95: Final = 1.6449
"""95 % quantile of the standard normal distribution."""


class SimulatedTimings:
    """Seconds of execution by variant, class and batch size, interpolated between measured sizes.

    Args:
        switch_s: seconds of every switch and start; None means those of the profile.
        in_place: whether a switch loads the variant in a running server; otherwise it takes as long as a start.
        rng: draws a log-normal factor for the spread between median and 95 % quantile; not used without spread.
    """

    def __init__(
        self, profile: ProfileSpec, *, switch_s: float | None, rng: random.Random, in_place: bool = True
    ) -> None:
        self._rng = rng
        self._switch_s = switch_s
        self._in_place = in_place
        self._median: dict[tuple[str, str], dict[int, float]] = {}
        self._spread: dict[tuple[str, str], float] = {}
        for row in profile.execution:
            key = (row.variant, row.accelerator_class)
            self._median.setdefault(key, {})[row.batch] = row.p50_micros / 1e6
            spread = math.log(row.p95_micros / row.p50_micros) / _P95
            self._spread[key] = max(self._spread.get(key, 0.0), spread)
        self._discriminator: dict[str, dict[int, float]] = {}
        for judge in profile.discriminator:
            self._discriminator.setdefault(judge.accelerator_class, {})[judge.batch] = judge.p50_micros / 1e6
        self._starts = {(s.variant, s.accelerator_class): s for s in profile.startup}

    def largest_batch(self, variant: str, accelerator_class: str) -> int:
        """The largest batch that was measured; Triton forms no larger ones."""
        return max(self._median[variant, accelerator_class])

    def median_s(self, variant: str, accelerator_class: str, batch: int, *, judged: bool) -> float:
        """Median seconds of a batch; ``judged`` adds the discriminator."""
        seconds = batch_seconds(self._median[variant, accelerator_class], batch)
        if judged and accelerator_class in self._discriminator:
            seconds += batch_seconds(self._discriminator[accelerator_class], batch)
        return seconds

    def batch_s(self, variant: str, accelerator_class: str, batch: int, judged: bool) -> float:
        """Seconds of one batch, drawn around the median."""
        seconds = self.median_s(variant, accelerator_class, batch, judged=judged)
        spread = self._spread[variant, accelerator_class]
        return seconds * math.exp(spread * self._rng.gauss(0.0, 1.0)) if spread else seconds

    def switch_s(self, serves: str, accelerator_class: str) -> float:
        """Seconds until a worker that serves something else serves this: one variant, or several (`together`)."""
        if self._switch_s is not None:
            return self._switch_s
        if not self._in_place:
            return self.start_s(serves, accelerator_class)
        return sum(start.load_millis for start in self._known(serves, accelerator_class)) / 1000

    def start_s(self, serves: str, accelerator_class: str) -> float:
        """Seconds from an empty accelerator to ready: the longest start, or the loads one after the other."""
        if self._switch_s is not None:
            return self._switch_s
        starts = self._known(serves, accelerator_class)
        cold_s = max((float(start.cold_seconds) for start in starts), default=0.0)
        return max(cold_s, sum(start.load_millis for start in starts) / 1000)

    def _known(self, serves: str, accelerator_class: str) -> list[Startup]:
        keys = [(variant, accelerator_class) for variant in apart(serves)]
        return [self._starts[key] for key in keys if key in self._starts]
