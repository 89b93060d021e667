"""Baseline: one row of a table of neighbouring variants, the light stage sized for every prompt (HADIS)."""

from __future__ import annotations

from dataclasses import dataclass

from cascade_api.cascade import PolicyName

from ..allocation import Chain, Frontier, Row
from .base import Published, of_two


@dataclass(frozen=True)
class SizedForAll(Row):
    """A row for planning as if every prompt went to the light stage; ``measured`` is what routers are told.

    ``direct`` is 0 and ``escalation`` all of the heavy load.
    """

    measured: tuple[float, float] = (0.0, 0.0)


class Hadis(Published):
    """Plans with one row of its table at a time: each is its own chain, so nothing is mixed."""

    name = PolicyName.HADIS

    def candidates(self, frontier: Frontier) -> Frontier:
        """The table: rows of neighbouring variants with more quality than any of no more heavy load."""
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
