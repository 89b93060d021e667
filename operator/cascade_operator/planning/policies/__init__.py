"""The policies that a manifest can name, by `PolicyName`.

`base` says what a policy may decide. `hybrid` is the product's own; the others are baselines, which follow published
systems or serve everything by one kind of variant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cascade_api.cascade import PolicyName

from .all_heavy import AllHeavy
from .all_light import AllLight
from .base import PlanningPolicy
from .diffserve import DiffServe
from .diffserve_static import DiffServeStatic
from .hadis import Hadis
from .hadis_jsq import HadisJsq
from .hybrid import Hybrid
from .proteus import Proteus

_POLICIES: Final[dict[PolicyName, PlanningPolicy]] = {
    kind.name: kind() for kind in (AllLight, AllHeavy, Proteus, DiffServe, DiffServeStatic, Hadis, HadisJsq, Hybrid)
}


def policy(name: PolicyName) -> PlanningPolicy:
    """The policy of that name."""
    return _POLICIES[name]


def joint(policies: Iterable[PlanningPolicy]) -> PlanningPolicy:
    """The policy that decides for cascades that compete: the one they all follow, or ours if they follow several."""
    several = set(policies)
    return several.pop() if len(several) == 1 else policy(PolicyName.HYBRID)


__all__ = ["PlanningPolicy", "joint", "policy"]
