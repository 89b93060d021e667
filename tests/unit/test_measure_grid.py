"""Quality for shares of direct and escalated prompts, by the image that would answer each prompt."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_profiler.measure.grid import (
    MeasuredChain,
    Side,
    alone_row,
    estimates,
    quality_rows,
    quantiles_milli,
    top_share,
)

HARDNESS = np.array([4.0, 3.0, 2.0, 1.0])
CONFIDENCE = np.array([0.9, 0.1, 0.8, 0.2])


def test_the_hardest_prompts_go_direct_and_the_least_confident_of_the_rest_escalate() -> None:
    light, heavy = Side({"q2": np.zeros(4)}), Side({"q2": np.array([1.0, 2.0, 4.0, 8.0])})
    rows = quality_rows("light", "heavy", estimates(MeasuredChain(light, heavy, HARDNESS, CONFIDENCE)))
    cells = {(row.direct_percent, row.escalation_percent): row.values_milli["q2"] for row in rows}
    # Half of the first prompt more goes direct at 30 % than at 20 %; the second is escalated first, the fourth next.
    assert cells[20, 0] == pytest.approx(1000 * 0.8 / 4, abs=1)
    assert cells[30, 0] == pytest.approx(1000 * (1 + 0.2 * 2) / 4, abs=1)
    assert cells[0, 30] == pytest.approx(1000 * (2 + 0.2 * 8) / 4, abs=1)


def test_a_cut_inside_a_prompt_counts_it_in_part() -> None:
    np.testing.assert_allclose(top_share(HARDNESS, np.ones(4), 0.375), [1, 0.5, 0, 0])


def test_equal_scores_share_alike() -> None:
    np.testing.assert_allclose(top_share(np.array([2.0, 1.0, 1.0, 1.0]), np.ones(4), 0.5), [1, 1 / 3, 1 / 3, 1 / 3])


def test_the_share_served_by_the_heavy_variant_is_the_planned_one() -> None:
    rng = np.random.default_rng(1)
    light, heavy = Side({"q2": np.zeros(200)}), Side({"q2": np.ones(200)})
    chain = MeasuredChain(light, heavy, rng.integers(0, 5, 200) / 1.0, rng.random(200))
    for row in quality_rows("light", "heavy", estimates(chain)):
        assert row.values_milli["q2"] == pytest.approx(1000 * (row.direct + (1 - row.direct) * row.escalation), abs=1)


def test_a_chain_has_a_full_grid_whose_corners_are_the_variants_own_quality() -> None:
    light, heavy = Side({"q2": np.array([1.0, 0.0, 1.0, 0.0])}), Side({"q2": np.array([1.0, 1.0, 1.0, 0.5])})
    rows = quality_rows("light", "heavy", estimates(MeasuredChain(light, heavy, HARDNESS, CONFIDENCE)))
    cells = {(row.direct_percent, row.escalation_percent): row.values_milli["q2"] for row in rows}
    assert len(cells) == len(rows) == 121
    assert cells[0, 0] == 500
    assert {cells[100, d] for d in range(0, 101, 10)} == {875}
    assert cells[0, 100] == 875
    assert cells[0, 50] == 875  # a good discriminator: half of the work buys all of the quality
    assert cells[50, 0] == 750


def test_a_variant_alone_is_worth_the_mean_of_its_images() -> None:
    rng = np.random.default_rng(2)
    values, true = rng.random(400), rng.standard_normal((400, 2))
    row = alone_row("only", Side({"q2": values}, {"fd": true + 2.0}), {"fd": true})
    assert (row.chain, row.direct_percent, row.escalation_percent) == (("only",), None, None)
    assert row.values_milli["q2"] == pytest.approx(1000 * values.mean(), abs=1)
    assert row.values_milli["fd"] == pytest.approx(8000, abs=1)
    assert row.errors_milli is not None
    assert row.errors_milli["q2"] == pytest.approx(1000 * values.std() / 20, rel=0.3)


def test_scores_are_summed_up_by_21_rising_quantiles() -> None:
    assert quantiles_milli(np.arange(101) / 100) == [50 * index for index in range(21)]


def test_errors_are_those_of_drawing_other_prompts() -> None:
    rng = np.random.default_rng(3)
    light, heavy = rng.random(400), rng.random(400)
    chain = MeasuredChain(Side({"q2": light}), Side({"q2": heavy}), rng.random(400), rng.random(400))
    found = estimates(chain)
    assert found[0, 0]["q2"].error == pytest.approx(light.std() / 20, rel=0.3)
    assert found[100, 0]["q2"].error == pytest.approx(heavy.std() / 20, rel=0.3)


def test_a_distance_is_that_of_what_is_served_together() -> None:
    rng = np.random.default_rng(4)
    true = rng.standard_normal((200, 3))
    light, heavy = Side({}, {"fd": true + 3.0}), Side({}, {"fd": true})
    found = estimates(MeasuredChain(light, heavy, rng.random(200), rng.random(200), {"fd": true}))
    assert found[100, 0]["fd"].value == pytest.approx(0, abs=1e-6)
    assert found[0, 0]["fd"].value == pytest.approx(27)
    # Half and half the mean is off by half of that, and there is more variance than there should be.
    assert 27 / 4 < found[50, 0]["fd"].value < 27
