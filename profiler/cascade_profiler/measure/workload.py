"""The prompts for measuring quality, and their seeds: held-out prompts of the shapes, or prompts from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_api.command import CommandFailed, read_text
from cascade_models.shapes import grammar


@dataclass(frozen=True)
class Workload:
    """Prompts with one seed each, for all variants. ``scenes`` are their meanings if all are prompts of the shapes."""

    scenes: tuple[grammar.Scene, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def slice(self, at: int, count: int) -> tuple[Sequence[str], Sequence[int]]:
        """``count`` prompts and seeds from ``at`` on; after the last one, it continues with the first."""
        chosen = [(at + offset) % len(self.prompts) for offset in range(count)]
        return [self.prompts[index] for index in chosen], [self.seeds[index] for index in chosen]

    def part(self, start: int, stop: int) -> Workload:
        """The prompts from ``start`` to ``stop``, which is not among them, with their seeds."""
        return Workload(self.scenes[start:stop], self.prompts[start:stop], self.seeds[start:stop])

    def shuffled(self, seed: int) -> Workload:
        """The same prompts, with the same seeds each, in another order."""
        order = np.random.default_rng((seed, 8)).permutation(len(self.prompts))
        scenes, prompts, seeds = (
            tuple(one[at] for at in order) if one else () for one in (self.scenes, self.prompts, self.seeds)
        )
        return Workload(scenes, prompts, seeds)

    @property
    def identity(self) -> str:
        """A digest of the prompts and seeds."""
        text = "\n".join(f"{seed} {prompt}" for seed, prompt in zip(self.seeds, self.prompts, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_workload(count: int, seed: int) -> Workload:
    """``count`` prompts that no model was trained on, equally many for each number of shapes."""
    rng = np.random.default_rng((seed, 7))
    scenes = tuple(
        grammar.sample_scene(rng, objects=1 + index % grammar.MAX_OBJECTS, split="test") for index in range(count)
    )
    return Workload(scenes, tuple(map(grammar.describe, scenes)), _seeds(rng, count))


def read_workload(file: Path, count: int, seed: int) -> Workload:
    """The first ``count`` different lines of a file as prompts; raises CommandFailed if it has fewer than 2."""
    lines = read_text(file, option="--prompts-from").splitlines()
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))[:count]
    if len(prompts) < 2:
        raise CommandFailed(
            f"--prompts-from: {file} has {len(prompts)} different prompts: write at least 2, one per line", code=2
        )
    return Workload(_scenes(prompts), prompts, _seeds(np.random.default_rng((seed, 7)), len(prompts)))


def _scenes(prompts: Sequence[str]) -> tuple[grammar.Scene, ...]:
    try:
        return tuple(map(grammar.parse, prompts))
    except grammar.PromptError:
        return ()


def _seeds(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 2**63 - 1, size=count))
