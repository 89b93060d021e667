"""Rows of a profile: loads, hull, mixtures and interpolation."""

from __future__ import annotations

import itertools

import pytest

from cascade_operator.planning.allocation.frontier import (
    Chain,
    Frontier,
    Portion,
    QualityGrid,
    Row,
    gpu_seconds,
    measured,
    pruned,
)
from support.factories import GRID, make_profile, quality

ROW = Row(("light", "heavy"), direct=0.2, escalation=0.5, value=0.7)


def test_a_row_loads_the_light_pool_with_what_is_not_direct_and_the_heavy_pool_with_direct_and_escalated() -> None:
    assert ROW.light_load == pytest.approx(0.8)
    assert ROW.heavy_load == pytest.approx(0.2 + 0.8 * 0.5)
    assert ROW.escalated == pytest.approx(0.4)


def test_accelerator_seconds_of_a_mixture_follow_the_published_formula() -> None:
    mixture = (Portion(0.5, ROW), Portion(0.5, Row(("light", "heavy"), 0.0, 0.0, 0.0)))
    assert gpu_seconds(mixture, light_s=0.1, heavy_s=1.0) == pytest.approx(0.5 * (0.08 + 0.6) + 0.5 * 0.1)


def test_quality_is_normalised_whichever_way_the_metric_is_better() -> None:
    rows = [
        {"chain": ["light", "heavy"], "directPercent": 0, "escalationPercent": e, "valuesMilli": {"fid": fid}}
        for e, fid in ((0, 30_000), (50, 24_000), (100, 20_000))
    ]
    profile = make_profile(metrics=[{"name": "fid", "direction": "min"}], objectiveMetric="fid", quality=rows)
    frontier = measured(profile.spec, variants=["light", "heavy"])
    assert [row.value for row in frontier.chains[0].rows] == pytest.approx([0.0, 0.6, 1.0])
    assert frontier.metric(0.6) == pytest.approx(24.0)
    assert frontier.value(25.0) == pytest.approx(0.5)


def test_a_profile_without_a_chain_of_the_variants_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no chain of \['heavy', 'other'\]"):
        measured(make_profile().spec, variants=["heavy", "other"])


def test_the_hull_keeps_no_row_that_a_mixture_replaces_and_loses_none_that_is_needed() -> None:
    frontier = measured(make_profile().spec, variants=["light", "heavy"])
    kept = pruned(frontier).chains[0].rows
    assert set(kept) < set(frontier.chains[0].rows)
    # Whatever the two pools cost, the best row of all is among the kept ones.
    for light, heavy in itertools.product((0.0, 0.05, 0.3, 1.0), (0.0, 0.1, 0.5, 0.9, 2.0)):

        def worth(row: Row, light: float = light, heavy: float = heavy) -> float:
            return row.value - light * row.light_load - heavy * row.heavy_load

        assert max(map(worth, kept)) == pytest.approx(max(map(worth, frontier.chains[0].rows)))


def test_a_row_between_two_others_is_pruned_only_when_it_is_below_their_line() -> None:
    def chain(middle: float) -> Frontier:
        points = ((0.0, 0.0), (0.5, middle), (1.0, 1.0))
        return Frontier(
            (Chain(("light", "heavy"), tuple(Row(("light", "heavy"), 0.0, e, v) for e, v in points)),), 0, 1
        )

    assert len(pruned(chain(0.4)).chains[0].rows) == 2
    assert len(pruned(chain(0.6)).chains[0].rows) == 3


def test_interpolation_meets_the_measured_rows_and_is_linear_between_them() -> None:
    chain = measured(make_profile().spec, variants=["light", "heavy"]).chains[0]
    grid = QualityGrid(chain)
    by_point = {(row.direct, row.escalation): row.value for row in chain.rows}
    for (direct, escalation), value in by_point.items():
        assert grid.value(direct, escalation) == pytest.approx(value)
    middle = (by_point[0.1, 0.2] + by_point[0.2, 0.2] + by_point[0.1, 0.3] + by_point[0.2, 0.3]) / 4
    assert grid.value(0.15, 0.25) == pytest.approx(middle)
    assert grid.value(-0.1, 1.2) == pytest.approx(by_point[0.0, 1.0])


def test_interpolation_names_the_cell_that_a_profile_lacks() -> None:
    rows = [
        {"chain": ["light", "heavy"], "directPercent": d, "escalationPercent": e, "valuesMilli": {"q2": 500}}
        for d in GRID
        for e in GRID
        if (d, e) != (30, 70)
    ]
    chain = measured(make_profile(quality=rows).spec, variants=["light", "heavy"]).chains[0]
    with pytest.raises(ValueError, match="directPercent 30, escalationPercent 70"):
        QualityGrid(chain)


def test_the_factory_quality_rises_with_the_heavy_share() -> None:
    assert quality(0, 0) == pytest.approx(0.67)
    assert quality(1, 0) == pytest.approx(0.98)
