"""What a policy is: which rows of the frontier it may choose from, and the rules it differs in from ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cascade_api.cascade import PolicyName

from ..allocation import Chain, Frontier, Row
from ..arrivals import Forecaster


@dataclass(frozen=True)
class SizedForAll(Row):
    """A row for planning as if every prompt went to the light stage; ``routed_…`` is what routers are told.

    ``direct`` is 0 and ``escalation`` all of the heavy load.
    """

    routed_direct: float = 0.0
    routed_escalation: float = 0.0


@dataclass(frozen=True)
class Policy:
    """A policy; ``candidates`` takes every measured row and returns those to plan with.

    ``candidates`` raises ValueError where the profile has no row that the policy could use. ``forecaster`` None is the
    operator's own. ``thrifty`` policies give up quality for fewer switches and less accelerator time; those that
    `offers_more` let more images escalate than fit, where what is too much is degraded.
    """

    name: PolicyName
    candidates: Callable[[Frontier], Frontier]
    dispatch: Literal["least-wait", "random"] = "least-wait"
    forecaster: Forecaster | None = None
    thrifty: bool = True
    offers_more: bool = False


def routed(row: Row) -> tuple[float, float]:
    """Direct and escalation shares that routers are told for a planned row."""
    return (row.routed_direct, row.routed_escalation) if isinstance(row, SizedForAll) else (row.direct, row.escalation)


def keep(frontier: Frontier, wanted: Callable[[Row], bool], *, missing: str) -> Frontier:
    """The frontier with only the rows that are ``wanted``; raises ValueError(missing) where none is left."""
    chains = []
    for chain in frontier.chains:
        rows = tuple(row for row in chain.rows if wanted(row))
        if rows:
            chains.append(Chain(chain.light, chain.heavy, rows))
    if not chains:
        raise ValueError(missing)
    return Frontier(tuple(chains), frontier.worst, frontier.best)


def cheapest_first(frontier: Frontier) -> list[str]:
    """The variants by cost, as far as the chains tell: the light one of a chain is the cheaper."""
    variants = sorted({name for chain in frontier.chains for name in (chain.light, chain.heavy)})
    return sorted(variants, key=lambda name: sum(chain.heavy == name for chain in frontier.chains))
