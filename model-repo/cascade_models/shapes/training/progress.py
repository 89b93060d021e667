"""Keeps the budget of a training stage, and reports its progress."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("cascade_models.shapes.training")

_LAST = 6


class TrainingStage:
    """Iterates steps until their number or the wall-clock budget is spent, reporting every few seconds.

    Progress is the larger of the two fractions, so that a learning-rate decay that follows it is always complete at the
    end. Without a time budget, the result only depends on the seed. ``before`` is the loss before the first update and
    ``after`` the mean loss of the last steps, which should be lower.
    """

    def __init__(self, name: str, steps: int, minutes: float | None = None, every_s: float = 8.0) -> None:
        self.name = name
        self.steps = steps
        self.budget_s = None if minutes is None else minutes * 60
        self.every_s = every_s
        self.step = 0
        self._started = self._reported = time.monotonic()
        self._smoothed: float | None = None
        self._losses: list[float] = []
        self.before = self.after = 0.0

    @property
    def progress(self) -> float:
        """Fraction done, 0 to 1."""
        done = self.step / self.steps
        if self.budget_s is not None:
            done = max(done, (time.monotonic() - self._started) / self.budget_s)
        return min(1.0, done)

    def advance(self, loss: float) -> None:
        """Count a step, and report the progress if it is time."""
        self.step += 1
        self._smoothed = loss if self._smoothed is None else 0.98 * self._smoothed + 0.02 * loss
        self._losses.append(loss)
        self.before = self._losses[0]
        last = self._losses[-_LAST:]
        self.after = sum(last) / len(last)
        now = time.monotonic()
        if now - self._reported >= self.every_s or self.progress >= 1.0:
            self._reported = now
            elapsed = now - self._started
            remaining = elapsed * (1 - self.progress) / max(self.progress, 1e-6)
            logger.info(
                "%s: step %d, %.0f %%, loss %.4f, %.0f ms/step, about %.0f s left",
                self.name,
                self.step,
                100 * self.progress,
                self._smoothed,
                1000 * elapsed / self.step,
                remaining,
            )
