"""What a router remembers of one cascade for people: the last hour's samples, and the last decisions (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cascade_api.console import DECISIONS, SAMPLES, Decision, Sample
from cascade_api.explanations import why, worth_telling
from cascade_api.plan import Plan


class Past:
    """Samples and decisions of one cascade, the newest last; the oldest make room."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS)
        self._told: Plan | None = None
        self._before: Plan | None = None
        self._violations: int | None = None
        self.in_force: Decision | None = None
        """The plan in force, compared with the last decision that was kept before it."""

    def follow(self, plan: Plan, *, at_ms: int) -> None:
        """Note that a plan came into force; it is kept as a decision if it changes something notable."""
        if worth_telling(plan, self._told):
            self._before, self._told = self._told, plan
            self.in_force = _decision(plan, self._before, at_ms)
            self._decisions.append(self.in_force)
        else:
            self.in_force = _decision(plan, self._told, at_ms)

    def sample(self, make: Callable[[int], Sample], *, violations: int) -> None:
        """Keep a sample; ``make`` gets how many violations there were since the last one.

        ``violations`` is the sum of all routers' counts, which falls when a router goes.
        """
        since = 0 if self._violations is None else max(0, violations - self._violations)
        self._violations = violations
        self._samples.append(make(since))

    def samples(self, *, since_ms: int) -> list[Sample]:
        """The samples after a moment."""
        return [sample for sample in self._samples if sample.at_ms > since_ms]

    def decisions(self, *, since_ms: int) -> list[Decision]:
        """The decisions after a moment."""
        return [decision for decision in self._decisions if decision.at_ms > since_ms]


def _decision(plan: Plan, before: Plan | None, at_ms: int) -> Decision:
    return Decision(at_ms=at_ms, generation=plan.generation, reason=plan.reason, why=why(plan, before))
