"""The policies that a manifest can name, by `PolicyName`."""

from __future__ import annotations

from typing import Final

from cascade_api.cascade import PolicyName

from . import all_heavy, all_light, diffserve, diffserve_static, hadis, hadis_jsq, hybrid, proteus
from .base import Policy, routed

_POLICIES: Final[dict[PolicyName, Policy]] = {
    module.POLICY.name: module.POLICY
    for module in (all_light, all_heavy, proteus, diffserve, diffserve_static, hadis, hadis_jsq, hybrid)
}


def policy(name: PolicyName) -> Policy:
    """The policy of that name."""
    return _POLICIES[name]


__all__ = ["Policy", "policy", "routed"]
