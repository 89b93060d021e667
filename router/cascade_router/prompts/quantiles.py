"""A live cut that picks a planned share of a stream of scores, highest scores first.

The threshold is a quantile of the last scores in a window. It begins with expected quantiles (seeds), whose weight
falls as live scores arrive. The cut also counts how many picks it made too few or too many (the debt), and adjusts the
share that it aims for, so that the realised share returns to the planned one.

Invariants: memory is limited by the window; a share of 0 picks none, and a share of 1 picks all; of two scores seen at
the same moment, the higher one is at least as likely to be picked; over a long run the picked share is the planned one,
for any distribution of the scores, including ties and sudden changes.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from cascade_api.quantiles import interpolated

WINDOW: Final = 400
"""Number of scores that are remembered."""
SEEDS_ALONE: Final = 50
"""With fewer live scores than this, only the seeds decide."""
LIVE_ALONE: Final = 150
"""From this many live scores on, seeds no longer count."""
SEEDS_TRUSTED: Final = 8.0
"""Up to this debt (picks too few or too many) seeds keep their weight; at twice this debt they have none."""
CORRECTION_GAIN: Final = 0.005
"""Change of the aimed share at a debt of one pick. It grows with the fifth power of the debt, so that a debt from
chance hardly changes the cut, and a larger one is repaid at once."""
CORRECTION_LIMIT: Final = 0.3
"""Largest change of the aimed share, so that very high and very low scores are still decided by themselves."""
DEBT_LIMIT: Final = 100.0
"""Largest debt that is remembered; more is not repaid."""
SURPRISE: Final = 4.0
"""A debt that chance does not explain: the distribution of scores has changed, and older scores are forgotten."""
LEAST_KEPT: Final = 20
"""Fewest scores that are then kept, and fewest new scores before scores are forgotten again."""


class LiveCut:
    """Decides for each score of a stream whether it is among the planned top share."""

    def __init__(self, *, seeds: Sequence[float], scores: Iterable[float] = (), window: int = WINDOW) -> None:
        """
        Args:
            seeds: evenly spaced rising quantiles of the expected scores.
            scores: scores seen elsewhere, with which the cut begins, oldest first.
            window: number of scores that are remembered.
        """
        self._seeds = tuple(seeds)
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []
        self._debt = 0.0
        self._since_forgotten = 0
        self._seeds_count = True
        for score in scores:
            self._observe(score)

    @property
    def count(self) -> int:
        """The number of live scores that are remembered."""
        return len(self._recent)

    @property
    def recent(self) -> tuple[float, ...]:
        """The live scores that are remembered, oldest first."""
        return tuple(self._recent)

    def pick(self, score: float, *, share: float, seed_threshold: float | None, draw: float) -> bool:
        """Whether ``score`` is among the top ``share``; remembers the score and the outcome.

        Args:
            share: planned share, 0 to 1.
            seed_threshold: the threshold to begin with; None takes it from the seeds.
            draw: number in [0, 1) that breaks ties.
        """
        if share <= 0 or share >= 1:
            self._observe(score)
            return share >= 1
        threshold = interpolated(self._seeds, 1 - share) if seed_threshold is None else seed_threshold
        weight = self._live_weight()
        chance = 1.0 - weight if score > threshold else 0.0
        if weight > 0:
            correction = CORRECTION_GAIN * self._debt**5
            aim = share + max(-CORRECTION_LIMIT, min(CORRECTION_LIMIT, correction))
            chance += weight * self._live_chance(score, aim)
        picked = draw < chance
        self._debt = max(-DEBT_LIMIT, min(DEBT_LIMIT, self._debt + share - picked))
        self._observe(score)
        if weight >= 1:
            self._seeds_count = False
            self._forget_what_changed(share)
        return picked

    def threshold(self, share: float) -> float:
        """The score above which the top ``share`` lies now; seeds have the same weight as in `pick`."""
        seed = interpolated(self._seeds, 1 - share)
        weight = self._live_weight()
        return (
            seed
            if weight == 0 or not self._sorted
            else (1 - weight) * seed + weight * interpolated(self._sorted, 1 - share)
        )

    def snapshot(self, points: int) -> list[float]:
        """Evenly spaced quantiles of the live scores, including minimum and maximum; empty if there are none."""
        if not self._sorted:
            return []
        return [interpolated(self._sorted, index / (points - 1)) for index in range(points)]

    def _forget_what_changed(self, share: float) -> None:
        """If the debt shows that the distribution of scores has changed, forget the scores from before."""
        self._since_forgotten += 1
        if abs(self._debt) < SURPRISE or self._since_forgotten < 2 * LEAST_KEPT:
            return
        # So many decisions all the same way make this debt, so the change is at least as old.
        made_by = abs(self._debt) / (share if self._debt > 0 else 1 - share)
        for _ in range(len(self._recent) - max(math.ceil(made_by), LEAST_KEPT)):
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft())]
        self._since_forgotten = 0

    def _live_weight(self) -> float:
        if not self._seeds_count:
            return 1.0
        by_count = (len(self._recent) - SEEDS_ALONE) / (LIVE_ALONE - SEEDS_ALONE)
        by_debt = (abs(self._debt) - SEEDS_TRUSTED) / SEEDS_TRUSTED
        return max(0.0, min(1.0, max(by_count, by_debt)))

    def _live_chance(self, score: float, share: float) -> float:
        """The probability of being picked: 1 above the cut, 0 below it, and the rest of the share among ties."""
        first = bisect.bisect_left(self._sorted, score)
        last = bisect.bisect_right(self._sorted, score)
        # The score at hand counts as one of its ties.
        total = len(self._sorted) + 1
        above = len(self._sorted) - last
        return max(0.0, min(1.0, (share * total - above) / (last - first + 1)))

    def _observe(self, score: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent[0])]
        self._recent.append(score)
        bisect.insort(self._sorted, score)
