"""A move costs what it costs on this cluster: with the same profile, plans differ if moves have to start pods."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cascade_api.profile import CascadeProfile, Startup
from cascade_api.settings import CPU, PlannerSettings
from cascade_operator.planning.forecast import forecast
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.observed import observe
from cascade_operator.planning.prepared import Preparations
from cascade_operator.snapshot import Demand, Mobility, Snapshot
from support.closed_loop import START
from support.factories import make_cascade, make_profile, make_replica, make_view

BOTH = (make_replica("cpu-0", "light"), make_replica("cpu-1", "heavy"))
RISING = Demand(tuple((int(START) - 30 + second, 10 + second) for second in range(30)))
"""A request per second more in each second."""


@dataclass(frozen=True)
class Planned:
    """How far ahead pools are planned for, how carefully, and what a start must gain."""

    pool_rate: float
    moves_slowly: bool
    prices: dict[str, float]


def planned(mobility: Mobility) -> Planned:
    view = make_view(demand=RISING, replicas=BOTH, profile=slow_to_start())
    settings = PlannerSettings()
    snapshot = Snapshot((view,), {"cpu": 2}, mobility)
    seen = observe(view, snapshot, Memory(), START, Preparations(settings, (CPU,)))
    expected = forecast(seen, START, settings)
    prices = {variant: price for (variant, _), price in seen.known.problem.switch_prices.items()}
    return Planned(expected.pool_rate, seen.moves_slowly, prices)


def slow_to_start() -> CascadeProfile:
    """0.35 s in place, 45 s from nothing, as a published table (whose qualities have no noise to hide a price in)."""
    profile = make_profile()
    startup = [
        Startup(variant=s.variant, accelerator_class=s.accelerator_class, cold_seconds=45, load_millis=350)
        for s in profile.spec.startup
    ]
    source = profile.spec.source.model_copy(update={"kind": "published"})
    spec = profile.spec.model_copy(update={"startup": startup, "source": source})
    return profile.model_copy(update={"spec": spec})


def test_where_pods_are_started_the_horizon_is_longer_the_planner_careful_and_a_start_dear() -> None:
    in_place, new_server = planned(Mobility.IN_PLACE), planned(Mobility.NEW_SERVER)
    assert not in_place.moves_slowly
    assert new_server.moves_slowly
    # Demand rises by one request per second in each second, less what chance could make of it: 44.65 s more of it.
    assert new_server.pool_rate > in_place.pool_rate + 30
    settings = PlannerSettings()
    for variant in ("light", "heavy"):
        ratio = new_server.prices[variant] / in_place.prices[variant]
        assert ratio == pytest.approx(settings.dear_switch_price / settings.switch_price)


def test_preparations_are_kept_apart_by_how_the_cluster_moves() -> None:
    preparations = Preparations(PlannerSettings(), (CPU,))
    view = make_view(profile=slow_to_start())
    assert view.profile is not None
    found = [preparations.of(view.cascade, view.profile, mobility).move_s for mobility in Mobility]
    assert found == [0.35, 45.0]


def test_a_variant_comes_up_like_another_with_the_same_weights() -> None:
    profile = make_profile()
    light = [row for row in profile.spec.startup if row.variant == "light"]
    measured = profile.model_copy(update={"spec": profile.spec.model_copy(update={"startup": light})})
    apart = make_cascade()
    shared = make_cascade(heavy__model=apart.spec.variants[0].model.wire())
    found = [
        Preparations(PlannerSettings(), (CPU,)).of(cascade, measured, Mobility.IN_PLACE).timings.move_s("heavy", "cpu")
        for cascade in (apart, shared)
    ]
    assert found == [0.0, 0.35]
