"""The result of an exploration, from which texts and pages are made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import comparing
from .comparing import Compared
from .rows import Evidence
from .searching import Found


@dataclass(frozen=True)
class Result:
    """What was found, and what it is worth on prompts that chose nothing.

    Attributes:
        metric: the objective metric.
        sign: -1 if less of it is better, for evidence has the negative values of such a metric; else 1.
        reported: what is known of the kept settings from the other prompts.
        dearest_s: accelerator-seconds of an image of the dearest setting that was tried; budgets are shares of it.
        compared: all ways of routing, by name and budget.
    """

    metric: str
    sign: float
    found: Found
    reported: Evidence
    dearest_s: float
    compared: Mapping[tuple[str, float], Compared]

    @classmethod
    def of(cls, metric: str, sign: float, found: Found, reported: Evidence, dearest_s: float) -> Result:
        """The result with its comparison at all budgets of `comparing.CURVE`."""
        prices = {budget: budget * dearest_s for budget in comparing.CURVE}
        chosen = comparing.choose(found.evidence, list(prices.values()), found.scale.floor)
        compared = comparing.report(chosen, reported, found.scale.floor)
        by_budget = {
            (system, budget): compared[system, price]
            for system in comparing.SYSTEMS
            for budget, price in prices.items()
        }
        return cls(metric, sign, found, reported, dearest_s, by_budget)

    def price(self, budget: float) -> float:
        """Accelerator-seconds of a prompt at a budget."""
        return budget * self.dearest_s

    def interval(self, system: str, budget: float) -> tuple[float, float, float]:
        """The mean of a way of routing with the ends of its interval, the lower one first."""
        one = self.compared[system, budget]
        low, high = sorted(self.sign * end for end in one.interval)
        return self.sign * one.mean, low, high

    def value(self, system: str, budget: float) -> str:
        """The mean with its interval, as text."""
        mean, low, high = self.interval(system, budget)
        return f"{mean:.4f} ({low:.4f} to {high:.4f})"

    def rows(self, system: str, budget: float) -> str:
        """The rows that are served, as text."""
        return self.compared[system, budget].mixture.text() or "all are refused"
