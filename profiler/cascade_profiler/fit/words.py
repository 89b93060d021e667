"""Ridge regression on the words of prompts: fits one weight per word, for several targets at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cascade_router.prompts.words import SUFFIX

Floats = npt.NDArray[np.float64]

LEAST_PROMPTS: Final = 2
"""How many prompts must have a word for it to get its own weight; rarer words train the weights of unknown words."""
LEAST_SUFFIX: Final = 3
"""How many rare words must have a suffix for it to get its own weight."""
_LETTERS_SCALE: Final = 8.0
"""Letters are counted in units of eight, so that one penalty suits all columns."""
_INTERCEPT, _LENGTH, _UNKNOWN, _LETTERS = range(4)
_FIRST_WORD: Final = 4


def fit_words(prompts: Sequence[Sequence[str]], targets: Mapping[str, Floats], *, ridge: float) -> dict[str, Any]:
    """Word tables in the form that `cascade_router.prompts.features.read_tables` reads, with one column per target.

    Args:
        prompts: the words of each prompt.
        targets: for each target, a value for each prompt.
        ridge: penalty on the square of each weight, except for the intercept and the weight that all words share.
    """
    found = Counter(word for words in prompts for word in set(words))
    known = sorted(word for word, count in found.items() if count >= LEAST_PROMPTS)
    endings = Counter(word[-SUFFIX:] for word, count in found.items() if count < LEAST_PROMPTS)
    suffixes = sorted(end for end, count in endings.items() if count >= LEAST_SUFFIX)
    place = {word: _FIRST_WORD + at for at, word in enumerate(known)}
    suffix_place = {end: _FIRST_WORD + len(known) + at for at, end in enumerate(suffixes)}
    size = _FIRST_WORD + len(known) + len(suffixes)
    gram = np.zeros((size, size))
    moment = np.zeros((size, len(targets)))
    wanted = np.stack(list(targets.values()), axis=1)
    for words, target in zip(prompts, wanted, strict=True):
        row: Counter[int] = Counter({_INTERCEPT: 1})
        letters = 0
        for word in words:
            row[_LENGTH] += 1
            if word in place:
                row[place[word]] += 1
                continue
            row[_UNKNOWN] += 1
            letters += len(word)
            end = suffix_place.get(word[-SUFFIX:])
            if end is not None:
                row[end] += 1
        columns = np.fromiter([*row, _LETTERS], dtype=np.intp)
        values = np.fromiter([*row.values(), letters / _LETTERS_SCALE], dtype=np.float64)
        gram[np.ix_(columns, columns)] += np.outer(values, values)
        moment[columns] += np.outer(values, target)
    penalty = np.full(size, ridge)
    penalty[[_INTERCEPT, _LENGTH]] = 1e-6
    weights = np.linalg.solve(gram + np.diag(penalty), moment)
    length = weights[_LENGTH]

    def thousandths(row: Floats) -> list[int]:
        return [round(1000 * float(value)) for value in row]

    return {
        "columns": list(targets),
        "intercept": thousandths(weights[_INTERCEPT]),
        "unknown": thousandths(length + weights[_UNKNOWN]),
        "unknownLetter": thousandths(weights[_LETTERS] / _LETTERS_SCALE),
        "words": {word: thousandths(length + weights[at]) for word, at in place.items()},
        "suffixes": {end: thousandths(weights[at]) for end, at in suffix_place.items()},
    }
