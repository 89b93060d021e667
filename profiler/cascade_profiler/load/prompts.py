"""The prompts to send: sampled from the grammar of the built-in shapes, or the lines of a file in turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from cascade_api.command import CommandFailed, read_text
from cascade_models.shapes import grammar

Split = Literal["train", "test", "heldout", "any"]
SHAPES = "shapes"


def is_shapes(source: str) -> bool:
    """Whether the prompts come from the grammar of the shapes, so that their images can be checked."""
    return source.partition(":")[0] == SHAPES


def prompts(source: str, *, seed: int) -> Iterator[str]:
    """An endless stream of prompts from ``shapes``, ``shapes:heldout`` (or another split), or the lines of a file.

    Raises CommandFailed if there are none.
    """
    if is_shapes(source):
        split = source.partition(":")[2] or "any"
        if split not in get_args(Split):
            raise CommandFailed(f"--prompts: {split!r} is not a split: use one of {', '.join(get_args(Split))}", code=2)
        return _sampled(cast(Split, split), seed)
    text = read_text(Path(source), option="--prompts")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise CommandFailed(f"--prompts: {source} has no prompts: write one per line", code=2)
    return itertools.cycle(lines)


def _sampled(split: Split, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    while True:
        yield grammar.describe(grammar.sample_scene(rng, split=split))
