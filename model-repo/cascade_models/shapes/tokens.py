"""Converts scenes to tokens, the input of the networks: int64 ``[7, 3]``, four phrase slots and three relation slots.

A phrase slot has the words for size, colour and form; a relation slot has its relation and two blanks. The networks sum
the three embeddings of a slot. So the grammar's parser tells them which attribute belongs to which shape, and they need
not learn it. A phrase without a size gets the word ``large``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cascade_models.shapes import grammar

SLOTS: Final = 2 * grammar.MAX_OBJECTS - 1
WORDS: Final = 3

_VOCABULARY: Final = (*grammar.SIZES, *grammar.COLOURS, *grammar.FORMS, *grammar.RELATIONS)
_INDEX: Final = {word: index for index, word in enumerate(_VOCABULARY, start=1)}
BLANK: Final = 0
NULL: Final = len(_VOCABULARY) + 1
VOCABULARY_SIZE: Final = len(_VOCABULARY) + 2


def encode(scene: grammar.Scene) -> npt.NDArray[np.int64]:
    """Tokens ``[7, 3]`` of one scene."""
    tokens = np.full((SLOTS, WORDS), BLANK, dtype=np.int64)
    for slot, shape in enumerate(scene.objects):
        tokens[slot] = (_INDEX[shape.size or "large"], _INDEX[shape.colour], _INDEX[shape.form])
    for slot, relation in enumerate(scene.relations, start=grammar.MAX_OBJECTS):
        tokens[slot, 0] = _INDEX[relation]
    return tokens


def encode_all(scenes: Sequence[grammar.Scene]) -> npt.NDArray[np.int64]:
    """Tokens ``[B, 7, 3]`` of several scenes."""
    return np.stack([encode(scene) for scene in scenes])


def null(batch: int) -> npt.NDArray[np.int64]:
    """Tokens ``[batch, 7, 3]`` of the empty prompt, which classifier-free guidance needs."""
    tokens = np.full((batch, SLOTS, WORDS), BLANK, dtype=np.int64)
    tokens[:, :, 0] = NULL
    return tokens
