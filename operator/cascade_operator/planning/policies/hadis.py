"""Baseline: one row from a table of neighbouring variants, with a light stage sized for every prompt (HADIS).

The table holds rows (r, d) of pairs with no third variant between them. A row is left out if another has at least its
quality at no more heavy load T = r + (1 - r)·d. The plan uses one row of the table at a time. Pools are sized as if
every prompt went to the light stage, and the share T to the heavy one: a planned row has r = 0 and d = T. Routers
are told the measured r and d. Source: arXiv 2509.00642.
"""

from __future__ import annotations

from dataclasses import dataclass

from cascade_api.cascade import PolicyName

from ..allocation import Chain, Frontier, Row
from .base import Published, of_two


@dataclass(frozen=True)
class SizedForAll(Row):
    """A row that plans as if every prompt went to the light stage: ``direct`` is 0, ``escalation`` the heavy load.

    ``measured`` holds the direct and escalation shares that routers are told.
    """

    measured: tuple[float, float] = (0.0, 0.0)


class Hadis(Published):
    """Plans with one row of its table at a time: each row is a chain of its own, so rows are never mixed."""

    name = PolicyName.HADIS

    def candidates(self, frontier: Frontier) -> Frontier:
        """The table: rows of neighbouring variants whose quality exceeds that of all rows with no more heavy load."""
        of_pairs = of_two(frontier).chains
        pairs = {chain.chain for chain in of_pairs}
        middles = {name for pair in pairs for name in pair}
        chains = []
        for chain in of_pairs:
            if any((chain.light, name) in pairs and (name, chain.heavy) in pairs for name in middles):
                continue
            best = float("-inf")
            for row in sorted(chain.rows, key=lambda r: (r.heavy_load, -r.value)):
                if row.value > best:
                    best = row.value
                    chains.append(Chain(chain.chain, (_sized_for_all(row),)))
        return Frontier(tuple(chains), frontier.worst, frontier.best)

    def told(self, row: Row) -> tuple[float, float]:
        """The shares of the row as it was measured."""
        return row.measured if isinstance(row, SizedForAll) else super().told(row)


def _sized_for_all(row: Row) -> SizedForAll:
    return SizedForAll(
        row.chain,
        direct=0.0,
        escalation=row.heavy_load,
        value=row.value,
        measured=(row.direct, row.escalation),
    )
