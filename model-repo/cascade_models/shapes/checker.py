"""Judges an image against a scene from its pixels: which shapes it has, with which attributes, and where.

It uses no network, and does not know how the image was made. A pixel is foreground if it is bright in some channel, and
a connected region of foreground is a detection. The colour of a detection is the nearest one of the palette after
scaling to full brightness. Its size and form are those of the nearest template, or none if no template is near. The
scores are those of the best assignment of detections to the prompt's shapes. Small shapes have few pixels, so the
checker is lenient with them: a blob with a hint of arms passes as a small cross.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_models.shapes import grammar, render

MIN_PIXELS: Final = 8
FOREGROUND: Final = 0.5
MAX_RESIDUAL: Final = 0.2
MIN_DISPLACEMENT: Final = 4.0

_WINDOW: Final = 16
_OFFSETS: Final = np.linspace(-0.5, 0.5, 7)
_MAX_DETECTIONS: Final = 7
_COLOURS: Final = np.asarray([render.PALETTE[name] for name in grammar.COLOURS], dtype=np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """A connected bright region; ``size`` and ``form`` are None if it resembles no shape. The centre is in pixels."""

    size: str | None
    colour: str
    form: str | None
    x: float
    y: float
    pixels: int


@dataclasses.dataclass(frozen=True, slots=True)
class SceneScores:
    """How well an image fits a scene; each 0 to 1.

    Attributes:
        adherence: mean over shapes (share of their three attributes) and relations, times the count factor.
            Its lowest values grow with the number of shapes, so do not compare scenes of different size by it.
        strict: 1 if every shape, attribute and relation is right and there is nothing else, otherwise 0.
        q2: (shapes with all attributes right + relations between right shapes) / (shapes + relations), times the
            count factor. The count factor is shapes / max(shapes, detections).
    """

    adherence: float
    strict: float
    q2: float


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    """Which phrases and relations of a scene are right, under the best assignment for q2."""

    objects: tuple[bool, ...]
    relations: tuple[bool, ...]
    count: bool


def check(image: npt.NDArray[np.uint8], scene: grammar.Scene) -> SceneScores:
    """Scores of an image ``[32, 32, 3]`` against a scene."""
    return score(detect(image), scene)


def detect(image: npt.NDArray[np.uint8]) -> tuple[Detection, ...]:
    """The shapes in an image ``[32, 32, 3]``, largest first.

    Raises:
        ValueError: the image has another shape.
    """
    if image.shape != (render.IMAGE_SIZE, render.IMAGE_SIZE, 3):
        raise ValueError(f"the image must have shape [32, 32, 3], not {list(image.shape)}")
    pixels = image.astype(np.float32) / np.float32(255)
    bright = pixels.max(axis=2)
    found = [_identify(pixels, bright, region) for region in _regions(bright > FOREGROUND)]
    return tuple(sorted(found, key=lambda detection: -detection.pixels))


def score(detections: Sequence[Detection], scene: grammar.Scene) -> SceneScores:
    """Scores of detections against a scene, under the best assignment for each score."""
    count = len(scene.objects)
    factor = count / max(count, len(detections))
    total = count + len(scene.relations)
    credits = _credits(detections, scene)
    adherence, q2 = 0.0, 0.0
    for assigned in _assignments(detections, count):
        q2 = max(q2, _sum(_judge(detections, assigned, credits, scene, exact=True)) / total)
        adherence = max(adherence, _sum(_judge(detections, assigned, credits, scene, exact=False)) / total)
        if q2 == 1.0:
            break
    return SceneScores(adherence * factor, float(q2 == 1.0 and len(detections) == count), q2 * factor)


def slots(detections: Sequence[Detection], scene: grammar.Scene) -> Slots:
    """Which slots are right, as detailed labels for training a discriminator."""
    best = ([0.0] * len(scene.objects), [0.0] * len(scene.relations))
    credits = _credits(detections, scene)
    for assigned in _assignments(detections, len(scene.objects)):
        judged = _judge(detections, assigned, credits, scene, exact=True)
        if _sum(judged) > _sum(best):
            best = judged
    objects, relations = (tuple(bool(value) for value in values) for values in best)
    return Slots(objects, relations, len(detections) == len(scene.objects))


def _sum(judged: tuple[list[float], list[float]]) -> float:
    return sum(judged[0]) + sum(judged[1])


def _assignments(detections: Sequence[Detection], count: int) -> Iterator[tuple[int, ...]]:
    """All ways to assign detections to shapes: for each shape the index of a detection, or -1 if there are too few."""
    found = min(len(detections), _MAX_DETECTIONS)
    return itertools.permutations([*range(found), *[-1] * max(0, count - found)], count)


def _credits(detections: Sequence[Detection], scene: grammar.Scene) -> list[list[float]]:
    """The share of right attributes by shape and detection; the last column stands for no detection."""
    return [[*(_credit(found, shape) for found in detections), 0.0] for shape in scene.objects]


def _judge(
    detections: Sequence[Detection],
    assigned: Sequence[int],
    credits: list[list[float]],
    scene: grammar.Scene,
    exact: bool,
) -> tuple[list[float], list[float]]:
    """The credit of each shape and relation. If ``exact``, a shape counts only if all is right, and a relation only if
    its shapes count.
    """
    objects = [row[index] for row, index in zip(credits, assigned, strict=True)]
    if exact:
        objects = [float(value == 1.0) for value in objects]
    relations = []
    for relation, sides in zip(scene.relations, relation_sides(scene), strict=True):
        usable = all(objects[index] if exact else assigned[index] >= 0 for side in sides for index in side)
        if usable:
            first, second = ([detections[assigned[index]] for index in side] for side in sides)
            dx = sum(one.x for one in first) / len(first) - sum(one.x for one in second) / len(second)
            dy = sum(one.y for one in first) / len(first) - sum(one.y for one in second) / len(second)
            usable = _holds(relation, dx, dy)
        relations.append(float(usable))
    return objects, relations


def relation_sides(scene: grammar.Scene) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """The indices of the shapes on either side of each relation; the middle relation is between pairs."""
    return {
        1: (),
        2: (((0,), (1,)),),
        3: (((0,), (1,)), ((0, 1), (2,))),
        4: (((0,), (1,)), ((0, 1), (2, 3)), ((2,), (3,))),
    }[len(scene.objects)]


def _credit(found: Detection, shape: grammar.Shape) -> float:
    size = found.size is not None and shape.size in (None, found.size)
    return (size + (found.colour == shape.colour) + (found.form == shape.form)) / 3


def _holds(relation: str, dx: float, dy: float) -> bool:
    """Whether a relation holds if the first side is displaced by (dx, dy) pixels from the second."""
    along, across = (dx, dy) if grammar.is_horizontal(relation) else (dy, dx)
    if relation in ("left of", "above"):
        along = -along
    return along > MIN_DISPLACEMENT and along > abs(across) / 2


def _regions(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """4-connected regions of at least ``MIN_PIXELS`` pixels."""
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce((labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]))
        spread *= mask
        if np.array_equal(spread, labels):
            break
        labels = spread
    values, counts = np.unique(labels[mask], return_counts=True)
    return [labels == value for value, count in zip(values, counts, strict=True) if count >= MIN_PIXELS]


def _identify(
    pixels: npt.NDArray[np.float32], bright: npt.NDArray[np.float32], region: npt.NDArray[np.bool_]
) -> Detection:
    inside = pixels[region]
    # Half-covered pixels at the edge of white shapes look grey-blue, so only the brightest half counts, scaled to 1.
    brightest = inside[inside.max(axis=1) >= np.median(inside.max(axis=1))]
    hue = np.median(brightest / brightest.max(axis=1, keepdims=True), axis=0)
    window, x, y = _window(bright, region)
    size, form = _nearest_template(window)
    colour = grammar.COLOURS[int(np.square(_COLOURS - hue).sum(axis=1).argmin())]
    return Detection(size, colour, form, x, y, int(region.sum()))


def _window(
    bright: npt.NDArray[np.float32], region: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], float, float]:
    """The flattened coverage of a region around its centroid, and the centroid (x, y) in pixels."""
    padded = np.pad(region, 1)
    grown = region | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    alpha = np.clip((bright - render.BACKGROUND) / (1 - render.BACKGROUND), 0, 1) * grown
    total = float(alpha.sum())
    row = float((alpha.sum(axis=1) * np.arange(len(alpha))).sum()) / total
    column = float((alpha.sum(axis=0) * np.arange(len(alpha))).sum()) / total
    top, left = round(row), round(column)
    window = np.pad(alpha, _WINDOW // 2)[top : top + _WINDOW, left : left + _WINDOW]
    return window.ravel().astype(np.float32), column + 0.5, row + 0.5


def _nearest_template(window: npt.NDArray[np.float32]) -> tuple[str | None, str | None]:
    matrix, squares, names = _templates()
    distances = squares - 2 * (matrix @ window) + float(window @ window)
    relative = distances / squares
    best = int(relative.argmin())
    return names[best] if relative[best] < MAX_RESIDUAL else (None, None)


@functools.cache
def _templates() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], list[tuple[str, str]]]:
    """The window of each form and size at each subpixel offset, the squared norms of these windows, and their names."""
    rows: list[npt.NDArray[np.float32]] = []
    names: list[tuple[str, str]] = []
    offsets = np.asarray(list(itertools.product(_OFFSETS, _OFFSETS)), dtype=np.float32) + render.IMAGE_SIZE / 2
    for form, size in itertools.product(grammar.FORMS, grammar.SIZES):
        radius = np.full(len(offsets), render.RADIUS[size], dtype=np.float32)
        for alpha in render.coverage(form, radius, offsets[:, 0], offsets[:, 1]):
            bright = (render.BACKGROUND + (1 - render.BACKGROUND) * alpha).astype(np.float32)
            rows.append(_window(bright, bright > FOREGROUND)[0])
            names.append((size, form))
    matrix = np.stack(rows)
    return matrix, np.square(matrix).sum(axis=1), names
