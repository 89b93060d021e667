"""Prompts of the shapes domain: text to ``Scene`` and back, and seeded sampling of scenes by split.

A prompt is one to four phrases ``a {small|large} {colour} {form}`` joined by relations:

====== ============================ =============================================================
shapes wording                      meaning
====== ============================ =============================================================
1      ``A``                        A in the centre
2      ``A r B``                    A stands in relation r to B
3      ``A r1 B r2 C``              (A r1 B) as a pair stands in r2 to C; r2 is orthogonal to r1
4      ``A r1 B r2 C r3 D``         pair (A r1 B) in r2 to pair (C r3 D); r3 is parallel to r1
====== ============================ =============================================================

A phrase may omit its size: the models then draw it large, and the checker accepts both sizes.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Final, Literal

import numpy as np

Split = Literal["train", "test", "heldout", "any"]

SIZES: Final = ("small", "large")
COLOURS: Final = ("red", "green", "blue", "yellow", "cyan", "magenta", "white")
FORMS: Final = ("circle", "square", "triangle", "cross")
RELATIONS: Final = ("left of", "right of", "above", "below")
MAX_OBJECTS: Final = 4
EXAMPLE: Final = "a small red circle left of a large blue square above a green triangle"

_ARTICLES: Final = frozenset(("a", "an", "the"))
_HORIZONTAL: Final = frozenset(("left of", "right of"))
_TEST_BUCKETS: Final = 16


class PromptError(ValueError):
    """A prompt is outside the grammar; the message names the word that was not understood, and shows an example."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """One phrase; ``size`` is None if the prompt does not give it."""

    size: str | None
    colour: str
    form: str


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """One to four shapes and the relations between them, one fewer than the shapes (see the module's table)."""

    objects: tuple[Shape, ...]
    relations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise PromptError(
                f"a scene has 1 to {MAX_OBJECTS} shapes, not {len(self.objects)}; for example: {EXAMPLE!r}"
            )
        if len(self.relations) != len(self.objects) - 1:
            raise PromptError(
                f"{len(self.objects)} shapes need {len(self.objects) - 1} relations, not {len(self.relations)}"
            )
        if len(self.relations) >= 2 and is_horizontal(self.relations[0]) == is_horizontal(self.relations[1]):
            raise PromptError(
                f"the second relation {self.relations[1]!r} must be orthogonal to the first, {self.relations[0]!r}; "
                f"for example: {EXAMPLE!r}"
            )
        if len(self.relations) == 3 and is_horizontal(self.relations[0]) != is_horizontal(self.relations[2]):
            raise PromptError(
                f"the third relation {self.relations[2]!r} must be parallel to the first, {self.relations[0]!r}; "
                f"for example: 'a red circle left of a blue square above a green cross right of a white triangle'"
            )


# Two of each form, four of each size, every colour once and magenta twice.
HELD_OUT: Final = frozenset(
    (
        Shape("small", "blue", "circle"),
        Shape("small", "magenta", "square"),
        Shape("small", "yellow", "triangle"),
        Shape("small", "white", "cross"),
        Shape("large", "cyan", "circle"),
        Shape("large", "red", "square"),
        Shape("large", "green", "triangle"),
        Shape("large", "magenta", "cross"),
    )
)


def is_horizontal(relation: str) -> bool:
    """Whether a relation orders its two sides along the x axis."""
    return relation in _HORIZONTAL


def _quote(word: str) -> str:
    return repr(word if len(word) <= 40 else word[:37] + "...")


def _fail(found: str | None, position: int, expected: str) -> PromptError:
    what = (
        "the prompt ends too early" if found is None else f"did not understand {_quote(found)} at word {position + 1}"
    )
    return PromptError(f"{what}: expected {expected}; for example: {EXAMPLE!r}")


def parse(prompt: str) -> Scene:
    """The scene that a prompt describes. Case, spacing, articles and a final full stop do not matter.

    Raises:
        PromptError: the prompt is outside the grammar.
    """
    words = prompt.strip().removesuffix(".").lower().split()
    if not words:
        raise PromptError(f"the prompt is empty; for example: {EXAMPLE!r}")
    objects: list[Shape] = []
    relations: list[str] = []
    at = 0

    def peek() -> str | None:
        return words[at] if at < len(words) else None

    while True:
        if peek() in _ARTICLES:
            at += 1
        size = None
        if peek() in SIZES:
            size = words[at]
            at += 1
        colour = peek()
        if colour not in COLOURS:
            wanted = f"a colour ({', '.join(COLOURS)})"
            raise _fail(colour, at, wanted if size else f"a size (small, large) or {wanted}")
        at += 1
        form = peek()
        if form not in FORMS:
            raise _fail(form, at, f"a form ({', '.join(FORMS)})")
        at += 1
        objects.append(Shape(size, colour, form))
        if at == len(words):
            return Scene(tuple(objects), tuple(relations))
        if len(objects) == MAX_OBJECTS:
            raise _fail(words[at], at, f"the end, since a prompt has at most {MAX_OBJECTS} shapes")
        relation = " ".join(words[at : at + 2]) if words[at] in ("left", "right") else words[at]
        if relation not in RELATIONS:
            raise _fail(words[at], at, f"a relation ({', '.join(RELATIONS)}) or the end")
        relations.append(relation)
        at += len(relation.split())


def describe(scene: Scene) -> str:
    """The canonical prompt of a scene; ``parse(describe(scene)) == scene``."""
    phrases = [" ".join(("a", *filter(None, (shape.size, shape.colour, shape.form)))) for shape in scene.objects]
    parts = [phrases[0]]
    for relation, phrase in zip(scene.relations, phrases[1:], strict=True):
        parts += (relation, phrase)
    return " ".join(parts)


def split_of(scene: Scene) -> Split:
    """Which split a scene belongs to: ``heldout``, ``test`` or ``train``.

    A scene with any held-out combination of size, colour and form is ``heldout``. Of the others with two or more
    shapes, one in sixteen is ``test``, by a stable hash of its prompt. Single trained combinations are few and are
    all ``train``.
    """
    if any(shape in HELD_OUT for shape in scene.objects):
        return "heldout"
    if len(scene.objects) > 1 and zlib.crc32(describe(scene).encode()) % _TEST_BUCKETS == 0:
        return "test"
    return "train"


def sample_scene(
    rng: np.random.Generator, objects: int | None = None, split: Split = "train", small: int | None = None
) -> Scene:
    """A random scene of a split, uniform within its number of shapes.

    Args:
        rng: source of randomness.
        objects: number of shapes, 1 to 4; uniform over them when None.
        split: see ``split_of``. ``test`` with one shape gives a trained combination, there being no others.
        small: number of small shapes; free when None.

    Raises:
        ValueError: ``objects`` or ``small`` out of range.
    """
    count = int(rng.integers(1, MAX_OBJECTS + 1)) if objects is None else objects
    if not 1 <= count <= MAX_OBJECTS:
        raise ValueError(f"objects must be 1 to {MAX_OBJECTS}, not {objects}")
    if small is not None and not 0 <= small <= count:
        raise ValueError(f"small must be 0 to {count}, not {small}")
    wanted = "train" if split == "test" and count == 1 else split
    while True:
        scene = _draw(rng, count, small)
        if wanted == "any" or split_of(scene) == wanted:
            return scene


def _draw(rng: np.random.Generator, count: int, small: int | None) -> Scene:
    draws = rng.random((count + 1, 3)).tolist()
    if small is None:
        sizes = [SIZES[int(row[0] * 2)] for row in draws[:count]]
    else:
        sizes = [SIZES[int(rank >= small)] for rank in rng.permutation(count)]
    shapes = tuple(
        Shape(size, COLOURS[int(row[1] * len(COLOURS))], FORMS[int(row[2] * len(FORMS))])
        for size, row in zip(sizes, draws[:count], strict=True)
    )
    first = int(draws[count][0] * 4)
    second = (2 if first < 2 else 0) + int(draws[count][1] * 2)
    third = (0 if first < 2 else 2) + int(draws[count][2] * 2)
    return Scene(shapes, tuple(RELATIONS[index] for index in (first, second, third)[: count - 1]))
