"""How long batches, starts and switches take in a simulation, from a profile."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final

from cascade_api.batches import batch_seconds
from cascade_api.profile import ProfileSpec

_P95: Final = 1.6449
"""95 % quantile of the standard normal distribution."""


class SimulatedTimings:
    """Seconds of execution by variant, class, size of the images and batch size, interpolated between measured batches.

    Args:
        profile: the first row's size is the default, that of images whose size is not named.
        switch_s: seconds of every switch and start; None means those of the profile.
        rng: draws a log-normal factor for the spread between median and 95 % quantile; not used without spread.
    """

    def __init__(self, profile: ProfileSpec, *, switch_s: float | None, rng: random.Random) -> None:
        self._rng = rng
        self._switch_s = switch_s
        self._default = profile.execution[0].size
        self._median: dict[tuple[str, str, str], dict[int, float]] = {}
        self._spread: dict[tuple[str, str, str], float] = {}
        for row in profile.execution:
            key = (row.variant, row.accelerator_class, row.size)
            self._median.setdefault(key, {})[row.batch] = row.p50_micros / 1e6
            spread = math.log(row.p95_micros / row.p50_micros) / _P95
            self._spread[key] = max(self._spread.get(key, 0.0), spread)
        self._discriminator: dict[str, dict[int, float]] = {}
        for judge in profile.discriminator:
            self._discriminator.setdefault(judge.accelerator_class, {})[judge.batch] = judge.p50_micros / 1e6
        self._starts = {(s.variant, s.accelerator_class): s for s in profile.startup}

    def largest_batch(self, variant: str, accelerator_class: str) -> int:
        """The largest batch that was measured; Triton forms no larger ones."""
        return max(self._median[variant, accelerator_class, self._default])

    def median_s(self, variant: str, accelerator_class: str, batch: int, *, judged: bool, size: str = "") -> float:
        """Median seconds of a batch; ``judged`` adds the discriminator."""
        seconds = batch_seconds(self._median[variant, accelerator_class, size or self._default], batch)
        if judged and accelerator_class in self._discriminator:
            seconds += batch_seconds(self._discriminator[accelerator_class], batch)
        return seconds

    def batch_s(self, variant: str, accelerator_class: str, batch: int, judged: bool, size: str = "") -> float:
        """Seconds of one batch, drawn around the median."""
        seconds = self.median_s(variant, accelerator_class, batch, judged=judged, size=size)
        spread = self._spread[variant, accelerator_class, size or self._default]
        return seconds * math.exp(spread * self._rng.gauss(0.0, 1.0)) if spread else seconds

    def load_s(self, variant: str, accelerator_class: str) -> float:
        """Seconds to load the weights of a variant on a worker that runs."""
        if self._switch_s is not None:
            return self._switch_s
        start = self._starts.get((variant, accelerator_class))
        return start.load_millis / 1000 if start else 0.0

    def start_s(self, variants: Sequence[str], accelerator_class: str) -> float:
        """Seconds from an empty accelerator until it serves these: the longest start, or the loads in a row."""
        if self._switch_s is not None:
            return self._switch_s
        starts = [self._starts[key] for name in variants if (key := (name, accelerator_class)) in self._starts]
        cold_s = max((float(start.cold_seconds) for start in starts), default=0.0)
        return max(cold_s, sum(start.load_millis for start in starts) / 1000)
