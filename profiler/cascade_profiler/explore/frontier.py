"""The frontier of some rows: the best mean quality at each price, if prompts may be spread over rows. Pure.

A planner that sends a share of the prompts by one row and the rest by another reaches every point between the two. So
the frontier is the upper hull of the rows. It begins at a price of zero, where all prompts are refused. A refused
prompt counts as the mean of the worst setting (``floor``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade_operator.planning.allocation import upper_hull

from ..measure.grid import Floats
from .rows import Evidence, Mask, Row, Rows


@dataclass(frozen=True)
class Mixture:
    """What a planner does at one price: rows with their shares of the prompts; the rest is refused."""

    portions: tuple[tuple[float, Row], ...]

    def outcome(self, evidence: Evidence, weights: Floats, floor: float) -> Floats:
        """``[n]``: the expected value of each prompt's answer, times the prompt's weight."""
        refused = 1.0 - sum(share for share, _ in self.portions)
        found = refused * floor * weights
        for share, row in self.portions:
            found = found + share * row.outcome(evidence, weights)
        return found

    def mean(self, evidence: Evidence, floor: float) -> float:
        """The mean over the prompts of ``evidence``."""
        return float(self.outcome(evidence, np.ones(evidence.prompts), floor).mean())

    def text(self) -> str:
        """The rows with their shares, in words."""
        return "; ".join(f"{share:.0%} {row.text()}" if share < 0.995 else row.text() for share, row in self.portions)


class Hull:
    """The frontier of some rows: its corners by index, the cheapest first, with their seconds and means."""

    def __init__(self, rows: Rows, among: Mask, floor: float) -> None:
        self._rows = rows
        self.floor = floor
        worth = [int(at) for at in rows.best(among) if rows.means[at] > floor]
        corners = upper_hull(
            [-1, *worth],
            cost=lambda at: float(rows.seconds[at]) if at >= 0 else 0.0,
            worth=lambda at: float(rows.means[at]) if at >= 0 else floor,
        )
        self.corners = np.array(corners[1:], dtype=np.int64)
        self.seconds: Floats = np.concatenate(([0.0], rows.seconds[self.corners]))
        self.means: Floats = np.concatenate(([floor], rows.means[self.corners]))

    def at(self, seconds: Floats) -> Floats:
        """``[k]``: the best mean at each of k prices."""
        found: Floats = np.interp(seconds, self.seconds, self.means)
        return found

    def outcomes(self, seconds: Floats) -> Floats:
        """``[k, n]``: the expected value of each prompt's answer at each of k prices."""
        corners = np.vstack(
            (np.full((1, self._rows.evidence.prompts), self.means[0]), self._rows.outcomes(self.corners))
        )
        places = np.interp(seconds, self.seconds, np.arange(len(self.seconds)))
        low = np.minimum(places.astype(np.int64), len(corners) - 1)
        high = np.minimum(low + 1, len(corners) - 1)
        part = (places - low)[:, None]
        found: Floats = (1 - part) * corners[low] + part * corners[high]
        return found

    def mixture(self, seconds: float) -> Mixture:
        """The rows that reach the best mean at a price, with their shares."""
        place = float(np.interp(seconds, self.seconds, np.arange(len(self.seconds))))
        low = min(int(place), len(self.corners))
        portions = [(1.0 - (place - low), low), (place - low, low + 1)]
        return Mixture(
            tuple((share, self._rows.row(int(self.corners[at - 1]))) for share, at in portions if share > 1e-9 and at)
        )


def best_chains(evidence: Evidence, floor: float, most: int) -> list[tuple[str, str]]:
    """The chains of two settings, light and heavy, whose rows come nearest to the frontier, the nearest first."""
    rows = Rows(evidence)
    below = Hull(rows, np.ones(len(rows.means), dtype=bool), floor).at(rows.seconds) - rows.means
    nearest: dict[tuple[str, str], float] = {}
    for index in np.argsort(below, kind="stable"):
        row = rows.row(int(index))
        if not row.alone:
            nearest.setdefault((row.light, row.heavy), float(below[index]))
    return list(nearest)[:most]


def best_single(evidence: Evidence, seconds: float, floor: float) -> Mixture:
    """The best setting, alone and for all prompts, that a price pays for; if none, all prompts are refused."""
    affordable = np.flatnonzero(evidence.seconds <= seconds * (1 + 1e-9))
    means = evidence.values.mean(axis=1)
    if not len(affordable) or means[affordable].max() <= floor:
        return Mixture(())
    name = evidence.names[affordable[int(np.argmax(means[affordable]))]]
    return Mixture(((1.0, Row(name, name)),))
