"""Plans the rounds of a search within a budget: how many prompts each has, and how many settings may stay. Pure.

The first round draws a few images of every setting. Each further round has twice the prompts and fewer settings: the
same share of them leaves in each round, so that the last one has as many as may be kept. Those are then drawn for as
many other prompts, on which they are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ROUNDS: Final = 5
GRAIN: Final = 4
"""The number of prompts in a round is a multiple of this, so that a round is made of whole requests."""


class BudgetTooSmall(ValueError):
    """The budget does not even pay for the smallest search; ``least`` would."""

    def __init__(self, least: float) -> None:
        super().__init__(f"the smallest search takes {least:.0f}")
        self.least = least


@dataclass(frozen=True)
class Round:
    """A round: the number of its prompts, those of earlier rounds included, and of the settings that enter it."""

    prompts: int
    settings: int


def plan(settings: int, prompts: int, *, most: int) -> list[Round]:
    """The rounds for a number of settings, of which ``most`` may be kept; the last one has ``prompts`` prompts."""
    fewest = min(most, settings)
    found = []
    for number in range(ROUNDS):
        share = 2 ** (ROUNDS - 1 - number)
        left = round(settings * (fewest / settings) ** (number / (ROUNDS - 1)))
        found.append(Round(max(GRAIN, prompts // share // GRAIN * GRAIN), left))
    found[-1] = Round(prompts, found[-1].settings)
    return found


def price(rounds: Sequence[Round], prices: Sequence[float], *, most: int, drawn: int = 0) -> float:
    """The most that rounds and the report after them can cost, whatever is dropped.

    ``prices`` are those of an image of each setting that is left, and ``drawn`` is the number of prompts for which
    these have their images.
    """
    dearest = sorted(prices, reverse=True)
    if not rounds:
        return drawn * sum(dearest[:most])
    total = 0.0
    for one in rounds:
        total += max(0, one.prompts - drawn) * sum(dearest[: one.settings])
        drawn = max(drawn, one.prompts)
    return total + rounds[-1].prompts * sum(dearest[:most])


def within(budget: float, prices: Sequence[float], prompts: int, *, most: int) -> list[Round]:
    """The rounds of the largest search, of at most ``prompts`` prompts, whose price is within the budget.

    Raises BudgetTooSmall.
    """
    smallest = GRAIN * 2 ** (ROUNDS - 1)
    for size in range(prompts, min(smallest, prompts) - 1, -GRAIN):
        rounds = plan(len(prices), size, most=most)
        if price(rounds, prices, most=most) <= budget:
            return rounds
    raise BudgetTooSmall(price(plan(len(prices), min(smallest, prompts), most=most), prices, most=most))


def shortened(rounds: Sequence[Round], budget: float, prices: Sequence[float], *, most: int, drawn: int) -> list[Round]:
    """The rounds that are still to come, with fewer prompts if the rest of the budget does not pay for all.

    No round has fewer prompts than are drawn. If not even that is paid for, the search ends: the list is empty.
    """
    for percent in range(100, 0, -1):
        fewer = [Round(max(drawn, one.prompts * percent // 100 // GRAIN * GRAIN), one.settings) for one in rounds]
        if price(fewer, prices, most=most, drawn=drawn) <= budget:
            return fewer
    return []
