"""Policies by name, and which rows they may choose."""

from __future__ import annotations

import pytest

from cascade_api.cascade import PolicyName
from cascade_api.settings import PlannerSettings
from cascade_operator.planning.allocation.frontier import Chain, Frontier, Row, measured
from cascade_operator.planning.arrivals import ArrivalRate
from cascade_operator.planning.planner import Planner
from cascade_operator.planning.policies import joint, policy
from cascade_operator.snapshot import Demand
from cascade_profiler.simulate.production import ProductionSystem
from support.factories import make_profile
from support.simulation import make_scenario

FRONTIER = measured(make_profile().spec, variants=["light", "heavy"])
PUBLISHED = ("proteus", "diffserve", "diffserve-static", "hadis", "hadis-jsq")


def three_variants() -> Frontier:
    """Every chain of a, b and c, cheapest first; quality grows with the heavy load."""
    shares = (0.0, 0.5, 1.0)
    return Frontier(
        tuple(
            Chain(names, tuple(Row(names, r, d, value=0.1 + r + (1 - r) * d) for r in shares for d in shares))
            for names in (("a", "b"), ("a", "c"), ("b", "c"))
        ),
        worst=0.0,
        best=1.0,
    )


def test_all_light_never_uses_the_heavy_variant() -> None:
    rows = policy(PolicyName.ALL_LIGHT).candidates(FRONTIER).chains[0].rows
    assert {row.heavy_load for row in rows} == {0.0}


def test_all_heavy_never_uses_the_light_variant() -> None:
    rows = policy(PolicyName.ALL_HEAVY).candidates(FRONTIER).chains[0].rows
    assert {row.light_load for row in rows} == {0.0}


def test_hybrid_chooses_from_the_whole_hull() -> None:
    rows = policy(PolicyName.HYBRID).candidates(FRONTIER).chains[0].rows
    assert 2 < len(rows) < len(FRONTIER.chains[0].rows)


def test_proteus_uses_single_variants_only() -> None:
    rows = [row for chain in policy(PolicyName.PROTEUS).candidates(three_variants()).chains for row in chain.rows]
    assert rows
    assert all(row.light_load == 0 or row.heavy_load == 0 for row in rows)


@pytest.mark.parametrize("name", [PolicyName.DIFFSERVE, PolicyName.DIFFSERVE_STATIC])
def test_diffserve_escalates_within_one_pair_and_sends_nothing_direct(name: PolicyName) -> None:
    (chain,) = policy(name).candidates(three_variants()).chains
    assert chain.chain == ("b", "c")
    assert {row.direct for row in chain.rows} == {0.0}
    (chain,) = policy(name).candidates(FRONTIER).chains
    assert chain.chain == ("light", "heavy")


@pytest.mark.parametrize("name", ["all-light", "all-heavy", "diffserve", "diffserve-static", "hadis", "hadis-jsq"])
def test_policies_that_are_made_for_two_variants_leave_those_alone_aside(name: str) -> None:
    chosen, pairs = policy(PolicyName(name)), three_variants()
    alone = Frontier(tuple(Chain((v,), (Row((v,), 1.0, 0.0, value=0.5),)) for v in "abc"), worst=0.0, best=1.0)
    both = Frontier((*alone.chains, *pairs.chains), worst=0.0, best=1.0)
    assert chosen.candidates(both) == chosen.candidates(pairs)
    with pytest.raises(ValueError, match="no chain of two variants"):
        chosen.candidates(alone)


def test_a_variant_alone_is_as_good_as_a_chain_that_uses_no_other() -> None:
    alone = Frontier((Chain(("a",), (Row(("a",), 1.0, 0.0, value=0.5),)),), worst=0.0, best=1.0)
    assert policy(PolicyName.HYBRID).candidates(alone) == policy(PolicyName.PROTEUS).candidates(alone) == alone


def test_diffserve_static_is_sized_for_the_highest_demand_seen() -> None:
    forecast = policy(PolicyName.DIFFSERVE_STATIC).forecast
    quiet = Demand(tuple((second, 1) for second in range(100)))
    assert forecast(quiet, now=100.5, window_s=10, last=ArrivalRate(8.0, 99)).rate == 8.0
    assert forecast(quiet, now=100.5, window_s=10, last=None).rate == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", [PolicyName.HADIS, PolicyName.HADIS_JSQ])
def test_hadis_mixes_nothing_and_sizes_the_light_stage_for_every_prompt(name: PolicyName) -> None:
    chains = policy(name).candidates(three_variants()).chains
    assert {chain.chain for chain in chains} == {("a", "b"), ("b", "c")}, "neighbours only"
    for chain in chains:
        (row,) = chain.rows
        direct, escalation = policy(name).told(row)
        assert row.light_load == 1
        assert row.heavy_load == pytest.approx(direct + (1 - direct) * escalation)
    assert any(policy(name).told(chain.rows[0])[0] > 0 for chain in chains), "routers are told the row as measured"


def test_hadis_spreads_its_load_at_random_and_its_variant_does_not() -> None:
    assert policy(PolicyName.HADIS).dispatch == "random"
    assert policy(PolicyName.HADIS_JSQ).dispatch == "least-wait"


def test_only_the_published_systems_take_switches_for_free() -> None:
    assert {name.value for name in PolicyName if policy(name).thrift == 0} == set(PUBLISHED)


def test_cascades_that_compete_are_decided_for_by_the_policy_that_they_share() -> None:
    hadis, proteus = policy(PolicyName.HADIS), policy(PolicyName.PROTEUS)
    assert joint([hadis, hadis]) is hadis
    assert joint([hadis, proteus]) is policy(PolicyName.HYBRID)


@pytest.mark.parametrize("name", [*PUBLISHED, "all-light", "all-heavy"])
def test_the_production_loop_runs_every_policy(name: str) -> None:
    scenario = make_scenario("poisson:rate=2,seconds=40", workers=4, seed=1)
    run = ProductionSystem(scenario, policy=name, planner=Planner(PlannerSettings())).run(lambda part: None)
    assert len(run.outcomes.way) == len(scenario.trace.times_s)
    assert run.outcomes.violations.mean() < 0.2
    assert run.changes
