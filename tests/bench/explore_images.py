"""Images of the built-in models in many settings: drawn, checked and judged in this process, and kept in a folder.

A file holds what is known of 500 images of one setting, so that a benchmark that was ended goes on where it was.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascade_models import discriminators, engines, manifest, repository
from cascade_models.manifest import ManifestVariant
from cascade_models.shapes import assets, checker, sampling, tokens
from cascade_profiler.explore.space import candidates, guided_steps
from cascade_profiler.measure.grid import Floats
from cascade_profiler.measure.workload import Workload, sample_workload

EXAMPLE = Path(__file__).parents[2] / "examples" / "shapes.yaml"
BLOCK = 500
CHUNK = 25
HEAVY_PASSES = 48
"""Passes through the network of an image of 24 guided steps, in which compute is told."""


@dataclass(frozen=True)
class Seen:
    """What is known of n images of one setting: q2 ``[n]``, and the discriminator's confidence ``[n]``."""

    q2: Floats
    confidence: Floats


def space() -> list[ManifestVariant]:
    """All settings of the built-in models that are tried."""
    variants = manifest.read_variants(EXAMPLE.read_text(encoding="utf-8"))
    models = repository.models_of(variants)
    return candidates(variants, {name: repository.settings_space(recipe) for name, recipe in models.items()})


def compute(variant: ManifestVariant) -> float:
    """An image's passes through the network, in images of the heavy weights at 24 guided steps."""
    twice = guided_steps(variant) if variant.weights == "heavy" else 0
    return (variant.settings.steps + twice) / HEAVY_PASSES


class Gallery:
    """The images of one workload, as far as they were asked for."""

    def __init__(self, prompts: int, seed: int, folder: Path, *, processes: int = 2) -> None:
        self.prompts = prompts
        self._seed = seed
        self._folder = folder
        self._processes = processes
        folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def workload(self) -> Workload:
        return workload(self.prompts, self._seed)

    def draw(self, variants: Sequence[ManifestVariant]) -> None:
        """Draw what is missing of these settings, dear ones last."""
        missing = [
            (variant, block)
            for variant in sorted(variants, key=compute)
            for block in range(0, self.prompts, BLOCK)
            if not self._file(variant.name, block).exists()
        ]
        begun = time.monotonic()
        whole, done = sum(compute(variant) for variant, _ in missing), 0.0
        with ProcessPoolExecutor(self._processes) as pool:
            running = {
                pool.submit(paint, variant, self.prompts, self._seed, block, self._file(variant.name, block)): variant
                for variant, block in missing
            }
            for finished in as_completed(running):
                finished.result()
                done += compute(running[finished])
                left = (time.monotonic() - begun) * (whole / done - 1)
                sys.stderr.write(f"[{left / 60:.0f} min left] {running[finished].name}\n")

    def seen(self, name: str) -> Seen:
        """What is known of the images of a setting that was drawn."""
        parts = [np.load(self._file(name, block)) for block in range(0, self.prompts, BLOCK)]
        return Seen(*(np.concatenate([part[key] for part in parts]) for key in ("q2", "confidence")))

    def _file(self, name: str, block: int) -> Path:
        return self._folder / f"{self.prompts}-{self._seed}-{name}-{block}.npz"


@functools.cache
def workload(prompts: int, seed: int) -> Workload:
    return sample_workload(prompts, seed)


def paint(variant: ManifestVariant, prompts: int, seed: int, block: int, file: Path) -> None:
    """Draw, check and judge a block of one setting's images, and write the file."""
    load = workload(prompts, seed)
    kind = assets.metadata().variants[variant.weights].kind
    own = assets.metadata().variants[variant.weights].guidance
    guidance = own if variant.settings.guidance is None else variant.settings.guidance
    q2, confidence = [], []
    for chunk in chunks(block, min(block + BLOCK, prompts)):
        scenes, texts, seeds = (part[chunk] for part in (load.scenes, load.prompts, load.seeds))
        images = sampling.generate(
            network(kind),
            tokens.encode_all(scenes),
            seeds,
            kind=kind,
            steps=variant.settings.steps,
            guidance=guidance,
            guides=variant.settings.guides,
        )
        q2 += [checker.check(image, scene).q2 for image, scene in zip(images, scenes, strict=True)]
        confidence.append(judge().confidence(images, texts))
    scratch = file.with_suffix(".part.npz")
    np.savez(scratch, q2=np.array(q2), confidence=np.concatenate(confidence).astype(np.float64))
    scratch.rename(file)


def chunks(start: int, stop: int) -> Iterator[slice]:
    for at in range(start, stop, CHUNK):
        yield slice(at, min(at + CHUNK, stop))


@functools.cache
def network(kind: sampling.Kind) -> engines.Network:
    return engines.load("onnxruntime", assets.path(kind), ("x", "t", "tokens"))


@functools.cache
def judge() -> discriminators.LoadedDiscriminator:
    return discriminators.load(discriminators.BUILTIN)
