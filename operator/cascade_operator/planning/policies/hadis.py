"""Baseline: one row of a table of neighbouring variants, the light stage sized for every prompt (HADIS)."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from ..allocation import Chain, Frontier, Row
from ..arrivals import moving_average
from .base import Policy, SizedForAll


def candidates(frontier: Frontier) -> Frontier:
    """The table: rows of neighbouring variants with more quality than any of no more heavy load; each is its own chain.

    One chain is in force at a time, so nothing is mixed.
    """
    pairs = {(chain.light, chain.heavy) for chain in frontier.chains}
    middles = {name for pair in pairs for name in pair}
    chains = []
    for chain in frontier.chains:
        if any((chain.light, name) in pairs and (name, chain.heavy) in pairs for name in middles):
            continue
        best = float("-inf")
        for row in sorted(chain.rows, key=lambda r: (r.heavy_load, -r.value)):
            if row.value > best:
                best = row.value
                chains.append(Chain(chain.light, chain.heavy, (_sized_for_all(row),)))
    return Frontier(tuple(chains), frontier.worst, frontier.best)


def _sized_for_all(row: Row) -> SizedForAll:
    return SizedForAll(
        row.light,
        row.heavy,
        direct=0.0,
        escalation=row.heavy_load,
        value=row.value,
        routed_direct=row.direct,
        routed_escalation=row.escalation,
    )


POLICY = Policy(PolicyName.HADIS, candidates, dispatch="random", forecaster=moving_average, thrifty=False)
