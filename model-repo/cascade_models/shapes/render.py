"""Renders true images of scenes: 32x32 RGB, shapes as analytic distance fields with antialiasing over one pixel.

A prompt only leaves open the position within a cell. A single shape is within 2 pixels of the centre. In larger scenes
each shape is inside its own cell of 16 pixels, so that small shapes vary by up to 4 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_models.shapes import grammar

IMAGE_SIZE: Final = 32
BACKGROUND: Final = 0.08
RADIUS: Final = {"small": 3.2, "large": 5.6}
PALETTE: Final = {
    "red": (1.0, 0.12, 0.12),
    "green": (0.12, 0.9, 0.12),
    "blue": (0.15, 0.25, 1.0),
    "yellow": (1.0, 0.95, 0.1),
    "cyan": (0.1, 0.95, 1.0),
    "magenta": (1.0, 0.15, 0.95),
    "white": (1.0, 1.0, 1.0),
}

_OFFSET: Final = 8.0
_REACH: Final = 7.2
_SINGLE_JITTER: Final = 2.0
_DIRECTION: Final = {
    "left of": (-1.0, 0.0),
    "right of": (1.0, 0.0),
    "above": (0.0, -1.0),
    "below": (0.0, 1.0),
}
_PIXELS: Final = np.arange(IMAGE_SIZE, dtype=np.float32) + np.float32(0.5)


def centres(scene: grammar.Scene) -> list[tuple[float, float]]:
    """The centres (x, y) of a scene's shapes before jitter, in pixels with y downwards, in the order of its phrases."""
    middle = IMAGE_SIZE / 2
    directions = [_DIRECTION[relation] for relation in scene.relations] + [(0.0, 0.0)] * 3
    (first_x, first_y), (between_x, between_y), (second_x, second_y) = directions[:3]
    offsets = (
        (between_x + first_x, between_y + first_y),
        (between_x - first_x, between_y - first_y),
        (second_x - between_x, second_y - between_y),
        (-second_x - between_x, -second_y - between_y),
    )
    return [(middle + _OFFSET * x, middle + _OFFSET * y) for x, y in offsets[: len(scene.objects)]]


def coverage(
    form: str, radius: npt.NDArray[np.float32], x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """How much of each pixel ``[N, 32, 32]`` a form with centres ``x, y`` and radii ``[N]`` covers, 0 to 1."""
    r = radius[:, None, None]
    dx = _PIXELS[None, None, :] - x[:, None, None]
    dy = _PIXELS[None, :, None] - y[:, None, None]
    if form == "circle":
        distance = np.sqrt(dx * dx + dy * dy) - np.float32(0.97) * r
    elif form == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - np.float32(0.87) * r
    elif form == "triangle":
        # Apex at -r, base at +0.85 r and as wide as 2 r: the slanted sides have slope 1.85.
        slanted = (np.float32(1.85) * np.abs(dx) - dy - r) / np.float32(np.hypot(1.85, 1.0))
        distance = np.maximum(slanted, dy - np.float32(0.85) * r)
    else:
        long, short = np.maximum(np.abs(dx), np.abs(dy)), np.minimum(np.abs(dx), np.abs(dy))
        distance = np.maximum(long - r, short - np.float32(0.34) * r)
    covered: npt.NDArray[np.float32] = np.clip(np.float32(0.5) - distance, 0.0, 1.0).astype(np.float32)
    return covered


def render(scenes: Sequence[grammar.Scene], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Images ``[B, 32, 32, 3]`` in 0..1 of scenes; positions vary by ``rng``, and a shape without a size is large."""
    rows: list[tuple[float, float, float]] = []
    colours: list[tuple[float, float, float]] = []
    forms: list[str] = []
    owners: list[int] = []
    ordinals: list[int] = []
    for index, scene in enumerate(scenes):
        jitters = (rng.random((len(scene.objects), 2)) * 2 - 1).tolist()
        places = centres(scene)
        for ordinal, shape in enumerate(scene.objects):
            radius = RADIUS[shape.size or "large"]
            reach = _SINGLE_JITTER if len(scene.objects) == 1 else _REACH - radius
            (x, y), (jitter_x, jitter_y) = places[ordinal], jitters[ordinal]
            rows.append((x + reach * jitter_x, y + reach * jitter_y, radius))
            colours.append(PALETTE[shape.colour])
            forms.append(shape.form)
            owners.append(index)
            ordinals.append(ordinal)
    table = np.asarray(rows, dtype=np.float32)
    alpha = np.empty((len(rows), IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.float32)
    for form in set(forms):
        chosen = np.asarray([name == form for name in forms])
        alpha[chosen, :, :, 0] = coverage(form, table[chosen, 2], table[chosen, 0], table[chosen, 1])
    contrast = np.asarray(colours, dtype=np.float32)[:, None, None, :] - np.float32(BACKGROUND)
    images = np.full((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), BACKGROUND, dtype=np.float32)
    owner, ordinal_of = np.asarray(owners), np.asarray(ordinals)
    for ordinal in range(grammar.MAX_OBJECTS):
        chosen = ordinal_of == ordinal
        # Shapes never overlap, so adding the differences to the background is the same as painting over it.
        images[owner[chosen]] += alpha[chosen] * contrast[chosen]
    return images


def to_uint8(images: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Images in 0..1 as bytes, clipped and rounded, same shape."""
    return np.rint(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)
