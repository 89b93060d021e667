"""Fréchet distances between sets of features, for many sets at once; each image counts with a weight. Pure.

The distance is ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` of the means and covariances (Heusel et al., 2017). For
few images it is biased upwards, so compare only values of the same number of images and the same features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Means ``[..., K]`` and covariances ``[..., K, K]``."""

    mean: Floats
    covariance: Floats

    @classmethod
    def of(cls, features: Floats) -> Moments:
        """The moments of features ``[N, K]`` that count once each."""
        return cls.of_sums(np.ones(len(features)) @ products(features), len(features))

    @classmethod
    def of_sums(cls, sums: Floats, total: float) -> Moments:
        """The moments from weighted sums ``[..., K + K * K]`` of `products`; ``total`` is the sum of the weights."""
        width = round((np.sqrt(1 + 4 * sums.shape[-1]) - 1) / 2)
        mean = sums[..., :width] / total
        squares = sums[..., width:].reshape(*sums.shape[:-1], width, width)
        outer = mean[..., :, None] * mean[..., None, :]
        return cls(mean, (squares - total * outer) / max(total - 1, 1.0))


def products(features: Floats) -> Floats:
    """Features and their products, ``[N, K + K * K]``; their weighted sums give the moments of any weighting."""
    outer = features[:, :, None] * features[:, None, :]
    return np.concatenate((features, outer.reshape(len(features), -1)), axis=1)


def distance(found: Moments, true: Moments) -> Floats:
    """The distances ``[...]`` of sets from one set of true features."""
    values, vectors = np.linalg.eigh(true.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ found.covariance @ root), 0.0, None)).sum(axis=-1)
    gap = found.mean - true.mean
    traces = np.trace(found.covariance, axis1=-2, axis2=-1) + np.trace(true.covariance)
    return np.asarray(np.maximum(0.0, (gap * gap).sum(axis=-1) + traces - 2 * shared), dtype=np.float64)
