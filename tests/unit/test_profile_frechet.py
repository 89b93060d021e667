"""Distances between sets of features where every image counts by a weight."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_profiler.measure.frechet import Floats, Moments, distance, products


def apart(one: Floats, other: Floats) -> float:
    return float(distance(Moments.of(one), Moments.of(other)))


@pytest.fixture
def features() -> Floats:
    rng = np.random.default_rng(0)
    return rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6))


def test_a_set_is_at_no_distance_from_itself(features: Floats) -> None:
    assert apart(features, features) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_by_its_square(features: Floats) -> None:
    assert apart(features + 2.0, features) == pytest.approx(4.0 * 6)


def test_independent_directions_add_up_their_differences_of_deviation() -> None:
    rng = np.random.default_rng(1)
    one = rng.standard_normal((4000, 2))
    one = (one - one.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(one.T)).T)
    assert apart(one * [3.0, 1.0], one) == pytest.approx(4.0)


def test_a_weight_counts_an_image_as_often(features: Floats) -> None:
    weights = np.random.default_rng(2).integers(0, 3, len(features)).astype(float)
    weighed = Moments.of_sums(weights @ products(features), weights.sum())
    repeated = np.repeat(features, weights.astype(int), axis=0)
    np.testing.assert_allclose(weighed.mean, repeated.mean(0))
    np.testing.assert_allclose(weighed.covariance, np.cov(repeated.T))


def test_features_that_never_vary_are_no_trouble(features: Floats) -> None:
    flat = features.copy()
    flat[:, 0] = 5.0
    assert np.isfinite(apart(flat, features))
