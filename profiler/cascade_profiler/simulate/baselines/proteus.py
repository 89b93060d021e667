"""Proteus as coded in HADIS: accuracy scaling over single models, where every worker gets the same share of queries.

The program assumes that each worker gets as many queries as it can carry. The runtime splits them equally, so workers
with slow models are overloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...frontier.profiles import Charges
from ..outcomes import DrawnRow
from .hadis import SMOOTHING
from .planners import BATCHES, Level, PublishedTimes, Signals, SolvedPlan, Spread


class PublishedProteus:
    """Chooses the workers by model, for the best mean accuracy of the workers whose throughput carries the demand."""

    name = "proteus"
    smoothing = SMOOTHING
    margin = 1.05
    drop_after = 1.5
    spread: Spread = "random"

    def __init__(
        self,
        *,
        variants: Sequence[str],
        minimise: bool,
        charges: Charges,
        times: PublishedTimes,
        workers: int,
        objective_s: float,
    ) -> None:
        """``variants``: cheapest first."""
        self._variants = variants
        self._sign = -1.0 if minimise else 1.0
        self._charges = charges
        self._times = times
        self._workers = workers
        self._objective_s = objective_s

    def start(self) -> SolvedPlan:
        """All workers on the lightest model; this is also the plan if nothing fits."""
        return self._solved([self._workers] + [0] * (len(self._variants) - 1), [BATCHES[-1]] * len(self._variants))

    def solve(self, signals: Signals) -> SolvedPlan:
        batches = [self._largest_batch(variant, signals) for variant in self._variants]
        rates = [b / self._times.believed_s(v, b) if b else 0.0 for v, b in zip(self._variants, batches, strict=True)]
        quality = [self._sign * self._charges.alone(variant) for variant in self._variants]
        best: tuple[float, list[int]] | None = None
        for split in _splits(self._workers, len(self._variants)):
            if any(count and not batch for count, batch in zip(split, batches, strict=True)):
                continue
            if sum(count * rate for count, rate in zip(split, rates, strict=True)) < signals.demand:
                continue
            value = sum(count * q for count, q in zip(split, quality, strict=True))
            if best is None or value > best[0] + 1e-9:
                best = (value, split)
        return self._solved(best[1], [max(batch, 1) for batch in batches]) if best else self.start()

    def _largest_batch(self, variant: str, signals: Signals) -> int:
        """The largest batch with e·(1 + Q) within the objective; 0 if there is none."""
        fits = (
            b
            for b in reversed(BATCHES)
            if self._times.believed_s(variant, b) * (1 + signals.queue_s.get(variant, 0.0)) <= self._objective_s
        )
        return next(fits, 0)

    def _solved(self, split: Sequence[int], batches: Sequence[int]) -> SolvedPlan:
        levels = tuple(
            Level(variant, count, batch)
            for variant, count, batch in zip(self._variants, split, batches, strict=True)
            if count
        )
        planned = sum(level.workers * self._charges.alone(level.variant) for level in levels) / self._workers
        return SolvedPlan(levels, DrawnRow((), 0.0, 0.0), planned)


def _splits(total: int, parts: int) -> Iterator[list[int]]:
    """All ways to divide ``total`` into ``parts`` whole numbers."""
    if parts == 1:
        yield [total]
        return
    for first in range(total + 1):
        for rest in _splits(total - first, parts - 1):
            yield [first, *rest]
