"""A move costs what it costs on this cluster: plans for the same demand differ if loading weights takes long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cascade_api.profile import CascadeProfile
from cascade_api.settings import CPU, AcceleratorClass, Elastic, PlannerSettings
from cascade_operator.planning.forecast import forecast
from cascade_operator.planning.memory import Memory
from cascade_operator.planning.observed import observe
from cascade_operator.planning.prepared import Preparations
from cascade_operator.snapshot import Demand, Snapshot
from support.closed_loop import START
from support.factories import make_cascade, make_profile, make_view, make_worker

BOTH = (make_worker("cpu-0", "light"), make_worker("cpu-1", "heavy"))
RISING = Demand(tuple((int(START) - 30 + second, 10 + second) for second in range(30)))
"""A request per second more in each second."""


@dataclass(frozen=True)
class Planned:
    """How far ahead pools are planned for, how carefully, and what a start must gain."""

    pool_rate: float
    moves_slowly: bool
    prices: dict[str, float]


def planned(load_ms: int, known: AcceleratorClass = CPU, *, start_s: int = 0, accelerators: int = 2) -> Planned:
    view = make_view(make_cascade(workers={"cpu": 3}), demand=RISING, profile=slow_to_load(load_ms, start_s))
    settings = PlannerSettings()
    snapshot = Snapshot((view,), {"cpu": accelerators}, BOTH)
    seen = observe(view, snapshot, Memory(), START, Preparations(settings, (known,)))
    expected = forecast(seen, START, settings)
    prices = {variant: price for (variant, _), price in seen.known.problem.switch_prices.items()}
    return Planned(expected.pool_rate, seen.moves_slowly, prices)


def slow_to_load(load_ms: int, start_s: int) -> CascadeProfile:
    """A published table (whose qualities have no noise to hide a price in)."""
    profile = make_profile()
    times = {"load_millis": load_ms, "cold_seconds": start_s}
    startup = [row.model_copy(update=times) for row in profile.spec.startup]
    source = profile.spec.source.model_copy(update={"kind": "published"})
    spec = profile.spec.model_copy(update={"startup": startup, "source": source})
    return profile.model_copy(update={"spec": spec})


SLOW_TO_COME = CPU.model_copy(update={"elastic": Elastic(max=3, provision_seconds=45)})


@pytest.mark.parametrize(
    ("slow", "seconds"),
    [
        (planned(45_000), 30),
        # The trend is carried forward no further than by the time that it was seen for.
        (planned(350, SLOW_TO_COME, accelerators=3), 2),
    ],
    ids=["loads", "Nodes"],
)
def test_where_moves_take_long_the_horizon_is_longer_the_planner_careful_and_a_move_dear(
    slow: Planned, seconds: float
) -> None:
    quick = planned(350)
    assert not quick.moves_slowly
    assert slow.moves_slowly
    # Demand rises by one request per second in each second, less what chance could make of it: 44.65 s more of it.
    assert slow.pool_rate > quick.pool_rate + seconds
    settings = PlannerSettings()
    for variant in ("light", "heavy"):
        ratio = slow.prices[variant] / quick.prices[variant]
        assert ratio == pytest.approx(settings.dear_switch_price / settings.switch_price)


def test_the_horizon_holds_the_start_of_a_worker_where_an_accelerator_is_free() -> None:
    quick = planned(350)
    grows = planned(350, start_s=45, accelerators=3)
    assert grows.pool_rate > quick.pool_rate + 2
    assert not grows.moves_slowly
    assert planned(350, start_s=45, accelerators=2) == quick
    assert planned(350, SLOW_TO_COME, accelerators=2).pool_rate < planned(350, SLOW_TO_COME, accelerators=3).pool_rate


def test_a_variant_comes_up_like_another_with_the_same_weights() -> None:
    profile = make_profile()
    light = [row for row in profile.spec.startup if row.variant == "light"]
    measured = profile.model_copy(update={"spec": profile.spec.model_copy(update={"startup": light})})
    apart = make_cascade()
    shared = make_cascade(heavy__model=apart.spec.variants[0].model.wire())
    found = [
        Preparations(PlannerSettings(), (CPU,)).of(cascade, measured).timings.load_s("heavy", "cpu")
        for cascade in (apart, shared)
    ]
    assert found == [0.0, 0.35]
