"""Times of batches of any size, from those that were measured."""

from __future__ import annotations

from collections.abc import Mapping


def batch_seconds(measured: Mapping[int, float], images: int) -> float:
    """Seconds of a batch: as measured, interpolated between two sizes, or in proportion to the nearest one.

    ``measured`` are seconds by the size of the batch, of at least one size.
    """
    if images in measured:
        return measured[images]
    below = max((size for size in measured if size < images), default=0)
    above = min((size for size in measured if size > images), default=0)
    if below and above:
        weight = (images - below) / (above - below)
        return measured[below] * (1 - weight) + measured[above] * weight
    nearest = below or above
    return measured[nearest] * images / nearest
