"""Splits prompts into those to fit on and those to hold out; prompts of a group are never in both parts.

A group is all prompts of the same text, or all prompts with the same subject.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cascade_router.prompts.features import first_noun
from cascade_router.prompts.words import words_of

HELD_OUT = 0.25


def by_prompt(prompts: Sequence[str]) -> list[str]:
    """The group of each prompt: its text."""
    return [" ".join(words_of(prompt)) for prompt in prompts]


def by_subject(prompts: Sequence[str]) -> list[str]:
    """The group of each prompt: its subject, the last noun of its first noun phrase.

    Captions of one class mostly have the same subject.
    """
    return [first_noun(words_of(prompt)) for prompt in prompts]


def held_out(groups: Sequence[str], *, seed: int, part: float = HELD_OUT) -> npt.NDArray[np.bool_]:
    """Which prompts to hold out: random whole groups, until they have at least ``part`` of the prompts."""
    names = sorted(set(groups))
    order = np.random.default_rng([seed, 11]).permutation(len(names))
    size = dict.fromkeys(names, 0)
    for group in groups:
        size[group] += 1
    chosen: set[str] = set()
    count = 0
    for at in order:
        if count >= part * len(groups):
            break
        chosen.add(names[at])
        count += size[names[at]]
    return np.asarray([group in chosen for group in groups])
