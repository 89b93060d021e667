"""Policies by name, and which rows they may choose."""

from __future__ import annotations

import pytest

from cascade_api.cascade import PolicyName
from cascade_operator.planning.frontier import measured
from cascade_operator.planning.policies import PolicyUnavailable, policy
from support.factories import make_profile

FRONTIER = measured(make_profile().spec, variants=["light", "heavy"])


def test_all_light_never_uses_the_heavy_variant() -> None:
    rows = policy(PolicyName.ALL_LIGHT).candidates(FRONTIER).chains[0].rows
    assert {row.heavy_load for row in rows} == {0.0}


def test_all_heavy_never_uses_the_light_variant() -> None:
    rows = policy(PolicyName.ALL_HEAVY).candidates(FRONTIER).chains[0].rows
    assert {row.light_load for row in rows} == {0.0}


def test_hybrid_chooses_from_the_whole_hull() -> None:
    rows = policy(PolicyName.HYBRID).candidates(FRONTIER).chains[0].rows
    assert 2 < len(rows) < len(FRONTIER.chains[0].rows)


@pytest.mark.parametrize("name", ["proteus", "diffserve", "diffserve-static", "hadis", "hadis-jsq"])
def test_a_policy_that_is_not_there_yet_is_refused_by_field_and_choice(name: str) -> None:
    with pytest.raises(PolicyUnavailable, match=rf"spec.policy.name: '{name}' is not yet available: .*hybrid"):
        policy(PolicyName(name))
