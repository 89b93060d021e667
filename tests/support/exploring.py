"""Evidence about made-up settings: the better ones are right more often, and their images are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_models.manifest import ManifestVariant, read_variants
from cascade_profiler.explore.rounds import Round
from cascade_profiler.explore.rows import Evidence
from support.triton import shapes_manifest


def evidence(
    rights: Sequence[float],
    seconds: Sequence[float],
    *,
    prompts: int = 400,
    seed: int = 0,
    judging_s: float = 0.01,
    sees: float = 0.6,
) -> Evidence:
    """Settings ``s0``, ``s1``, … that are right for the given shares of the prompts, the easy ones first.

    The discriminator is never wrong if it ``sees`` at least 0.5; at 0 it is a coin.
    """
    rng = np.random.default_rng(seed)
    hardness = rng.random(prompts)
    # How hard a prompt really is, which its text shows in part.
    hidden = (hardness + rng.random(prompts)) / 2
    ranks = np.argsort(np.argsort(hidden)) / prompts
    values = np.stack([(ranks < right).astype(float) for right in rights])
    noise = rng.random(values.shape)
    return Evidence(
        tuple(f"s{at}" for at in range(len(rights))),
        np.array(seconds, dtype=float),
        judging_s,
        values,
        sees * values + (1 - sees) * noise,
        hardness,
    )


class Shown:
    """Evidence that a search uncovers, and what it has asked for."""

    def __init__(self, whole: Evidence) -> None:
        self._whole = whole
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def draw(self, names: Sequence[str], rounds: Sequence[Round]) -> Evidence:
        prompts = rounds[0].prompts
        self.asked.append((tuple(names), prompts))
        chosen = self._whole.of(names)
        return Evidence(
            chosen.names,
            chosen.seconds,
            chosen.judging_s,
            chosen.values[:, :prompts],
            chosen.confidence[:, :prompts],
            chosen.hardness[:prompts],
        )

    @property
    def images(self) -> int:
        """How many images were asked for."""
        drawn: dict[str, int] = {}
        for names, prompts in self.asked:
            drawn |= dict.fromkeys(names, prompts)
        return sum(drawn.values())


def shapes_variants() -> list[ManifestVariant]:
    """The variants of the example's manifest."""
    return read_variants(shapes_manifest())
