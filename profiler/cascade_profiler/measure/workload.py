"""Held-out prompts of the shapes domain and their seeds: what quality is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascade_models.shapes import grammar


@dataclass(frozen=True)
class Workload:
    """Prompts, what they mean, and one seed each, shared by all variants."""

    scenes: tuple[grammar.Scene, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def slice(self, at: int, count: int) -> tuple[Sequence[str], Sequence[int]]:
        """``count`` prompts and seeds from ``at`` on, from the beginning again after the last."""
        chosen = [(at + offset) % len(self.prompts) for offset in range(count)]
        return [self.prompts[index] for index in chosen], [self.seeds[index] for index in chosen]


def sample_workload(count: int, seed: int) -> Workload:
    """``count`` prompts that were not trained on, as many of each number of shapes as of any other."""
    rng = np.random.default_rng((seed, 7))
    scenes = tuple(
        grammar.sample_scene(rng, objects=1 + index % grammar.MAX_OBJECTS, split="test") for index in range(count)
    )
    seeds = tuple(int(value) for value in rng.integers(0, 2**63 - 1, size=count))
    return Workload(scenes, tuple(map(grammar.describe, scenes)), seeds)
