"""The best mixture of a chain's rows for any capacities: a linear program that is solved beforehand and looked up.

The program chooses shares s of the rows and a share shed. It maximises

    Σ gain·s - price·shed

where all shares add up to 1 and three loads stay within their limits: the load of the light stage, the load of the
heavy stage, and the direct part of the latter. From tick to tick only the limits change. They are the right-hand side
of the program, and which of its bases are dual feasible does not depend on that. So these bases are enumerated once,
when a chain is prepared. By strong duality the optimum at given limits is the least of their dual objectives:

    score(limits) = min over dual vertices π of  π · (1, light, heavy, direct)

A basis that attains this minimum and is primal feasible at these limits gives the shares.

The light load and the direct load of a row add up to 1, so a basis has at most three rows. Three rows can be optimal
together only if they span a facet of the upper hull of the points (direct, heavy load, gain); this keeps the table
small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from .frontier import Row

NOTHING = 1e-6
"""Shares and amounts up to this count as 0."""
_EQUAL = 1e-9
_SINGULAR = 1e-8
_UNBOUND = 2.0
"""A limit per prompt that is above the load of any row."""
_SHED, _LIGHT, _HEAVY, _DIRECT = range(4)
"""Columns of the program that follow the rows: the share shed, and the slack of each of the three limits."""

Floats = npt.NDArray[np.float64]
Limits = tuple[float, float, float]
"""Load per prompt that can be carried by the light stage, by the heavy stage, and directly by the heavy stage."""


class Mixer:
    """One chain's rows, ready to be mixed; ``gains`` says what a prompt is worth by each row, in normalised quality."""

    def __init__(self, rows: Sequence[Row], gains: Sequence[float], *, shed_price: float) -> None:
        self._rows = len(rows)
        columns = np.zeros((self._rows + 4, 4))
        columns[: self._rows] = [(1.0, row.light_load, row.heavy_load, row.direct) for row in rows] or np.empty((0, 4))
        columns[self._rows :] = np.eye(4)
        worth = np.array([*gains, -shed_price, 0.0, 0.0, 0.0])
        bases = _candidates(columns, worth, self._rows)
        bases = bases[np.abs(np.linalg.det(columns[bases])) > _SINGULAR]
        prices = np.linalg.solve(columns[bases], worth[bases][..., None])[..., 0]
        feasible = (prices @ columns.T >= worth - _EQUAL).all(axis=1)
        self._bases: npt.NDArray[np.intp] = bases[feasible]
        self.prices: Floats = prices[feasible]
        """The dual vertices, shape (vertices, 4): what a prompt, and a unit of each limit, is worth."""
        self._inverses: Floats = np.linalg.inv(columns[self._bases].transpose(0, 2, 1))

    def score(self, limits: Limits) -> float:
        """The maximum of Σ gain·share - price·shed within ``limits``."""
        return float((self.prices @ _right(limits)).min())

    def shares(self, limits: Limits) -> tuple[list[tuple[int, float]], float]:
        """The best mixture as (number of the row, share of the demand), at most three rows, and the share shed.

        Of several equally good mixtures it is the one with the fewest rows, then the one with the first rows.
        """
        right = _right(limits)
        objectives = self.prices @ right
        optimal = np.flatnonzero(objectives <= objectives.min() + _EQUAL)
        amounts = self._inverses[optimal] @ right
        least = amounts.min(axis=1)
        feasible = least >= -_EQUAL
        at = int(feasible.argmax()) if feasible.any() else int(least.argmax())
        basis = self._bases[optimal[at]].tolist()
        found = list(zip(basis, amounts[at].tolist(), strict=True))
        shed = next((amount for column, amount in found if column == self._rows + _SHED), 0.0)
        return [(column, amount) for column, amount in found if column < self._rows and amount > NOTHING], max(shed, 0)


def _right(limits: Limits) -> Floats:
    light, heavy, direct = limits
    return np.array((1.0, min(light, _UNBOUND), min(heavy, _UNBOUND), min(direct, _UNBOUND)))


def _candidates(columns: Floats, worth: Floats, rows: int) -> npt.NDArray[np.intp]:
    """All sets of four columns that may be an optimal basis; those with the fewest rows come first."""
    others = range(rows, rows + 4)
    found = [tuple(others)]
    for count in (1, 2):
        found += [(*own, *rest) for own in combinations(range(rows), count) for rest in combinations(others, 4 - count)]
    found += [
        (*facet, rows + rest) for facet in _facets(columns, worth[:rows], rows) for rest in (_SHED, _LIGHT, _DIRECT)
    ]
    return np.array(found, dtype=np.intp)


def _facets(columns: Floats, gains: Floats, rows: int) -> list[tuple[int, int, int]]:
    """All sets of three rows such that no row lies above the plane through them, in (direct, heavy load, gain)."""
    found = []
    points = columns[:rows, [0, _DIRECT, _HEAVY]]
    for first in range(rows - 2):
        seconds, thirds = np.triu_indices(rows - first - 1, k=1)
        threes = np.stack([np.full(len(seconds), first), first + 1 + seconds, first + 1 + thirds], axis=1)
        threes = threes[np.abs(np.linalg.det(points[threes])) > _SINGULAR]
        planes = np.linalg.solve(points[threes], gains[threes][..., None])[..., 0]
        above = (planes @ points.T >= gains - _EQUAL).all(axis=1)
        found += [tuple(three) for three in threes[above].tolist()]
    return found
