"""The policies that a manifest can name, by `PolicyName`."""

from __future__ import annotations

from cascade_api.cascade import PolicyName

from . import all_heavy, all_light, hybrid
from .base import Policy

_AVAILABLE: dict[PolicyName, Policy] = {
    policy.name: policy for policy in (hybrid.POLICY, all_light.POLICY, all_heavy.POLICY)
}


class PolicyUnavailable(Exception):
    """The manifest names a policy that this version does not have."""


def policy(name: PolicyName) -> Policy:
    """The policy of that name; raises PolicyUnavailable, naming the field and what can be chosen."""
    try:
        return _AVAILABLE[name]
    except KeyError:
        names = ", ".join(sorted(p.value for p in _AVAILABLE))
        raise PolicyUnavailable(
            f"spec.policy.name: {name.value!r} is not yet available: choose one of {names}"
        ) from None


__all__ = ["Policy", "PolicyUnavailable", "policy"]
