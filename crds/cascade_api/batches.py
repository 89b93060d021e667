"""Estimates the time of a batch of any size from the sizes that were measured."""

from __future__ import annotations

from collections.abc import Mapping


def batch_seconds(measured: Mapping[int, float], images: int) -> float:
    """Seconds of a batch of ``images``; ``measured`` has the seconds of at least one size.

    A measured size has its measured time. Between two measured sizes, the time is interpolated linearly; beyond them,
    it is in proportion to the nearest one.
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
