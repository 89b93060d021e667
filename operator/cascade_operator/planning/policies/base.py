"""What a policy is: its name, and which rows of the frontier it may choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cascade_api.cascade import PolicyName

from ..frontier import Chain, Frontier, Row


@dataclass(frozen=True)
class Policy:
    """A policy; ``candidates`` takes every measured row and returns those to plan with.

    ``candidates`` raises ValueError where the profile has no row that the policy could use.
    """

    name: PolicyName
    candidates: Callable[[Frontier], Frontier]
    dispatch: Literal["least-wait", "random"] = "least-wait"


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
