"""Converts images of any size to inputs of the networks. Training and serving use this same code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def prepare(images: npt.NDArray[np.uint8], size: int, *, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Inputs ``[N, 3, size, size]`` from images ``[N, height, width, 3]``: resized, scaled to 0..1, and normalised.

    Raises ValueError if the images have another shape.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be bytes of shape [N, height, width, 3], not {images.dtype} {images.shape}")
    small = resize(images.astype(np.float32) / np.float32(255), size)
    normal = (small - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), dtype=np.float32)


def resize(images: Floats, size: int) -> Floats:
    """Whole images resized to ``[N, size, size, C]``: first by the means of blocks of pixels, then bilinearly."""
    return _along(_along(images, size, axis=1), size, axis=2)


def _along(images: Floats, size: int, *, axis: int) -> Floats:
    length = images.shape[axis]
    if length == size:
        return images
    block = length // size
    if block > 1:
        # Pixels at the edge that do not fill a block are left out: they are less than one pixel of the result.
        kept = block * (length // block)
        images = np.take(images, np.arange(kept), axis=axis)
        shape = (*images.shape[:axis], kept // block, block, *images.shape[axis + 1 :])
        images = images.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
        length = kept // block
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, length - 1)
    weight = (places - low).astype(np.float32).reshape([-1 if at == axis else 1 for at in range(images.ndim)])
    mixed: Floats = np.take(images, low, axis=axis) * (1 - weight) + np.take(images, high, axis=axis) * weight
    return mixed
