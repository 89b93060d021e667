"""Measures the shipped models in the way a replica runs them, on one thread of ONNX Runtime; the checker judges images.

All results except the latencies only depend on the seed.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from cascade_models.shapes import assets, checker, grammar, sampling, tokens
from cascade_models.shapes.training import export

logger = logging.getLogger("cascade_models.shapes.training")

BATCHES = (1, 2, 4, 8, 16)
_CHUNK = 20
_REPORT_EVERY_S = 8.0
_LABELS_SEED = 7

Doubles = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ScoredImages:
    """One variant's images of N prompts, ``[N, 32, 32, 3]``, and their scores, each ``[N]``."""

    images: npt.NDArray[np.uint8]
    adherence: Doubles
    strict: Doubles
    q2: Doubles


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Both variants on the same N prompts and seeds, and the discriminator's confidence in the light images."""

    scenes: tuple[grammar.Scene, ...]
    objects: npt.NDArray[np.int64]
    heldout: npt.NDArray[np.bool_]
    heavy: ScoredImages
    light: ScoredImages
    confidence: Doubles


@dataclasses.dataclass(frozen=True)
class BatchLatencies:
    """Median CPU milliseconds of one batch, sampler included, at the batch sizes of ``BATCHES``."""

    heavy: dict[int, float]
    light: dict[int, float]
    discriminator: dict[int, float]
    ratio: float
    ratio_with_overhead: float


class ExportedModels:
    """ONNX Runtime sessions of all three models and the variants' settings."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.variants = assets.verify(directory).variants
        self._sessions: dict[str, onnxruntime.InferenceSession] = {
            name: export.session(name, directory) for name in assets.MODELS
        }

    def generate(self, name: str, words: npt.NDArray[np.int64], seeds: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Images of one variant at its own steps and guidance."""
        variant = self.variants[name]
        session = self._sessions[variant.kind]

        def denoise(x: sampling.Floats, t: sampling.Floats, words: npt.NDArray[np.int64]) -> sampling.Floats:
            x0: sampling.Floats = session.run(["x0"], {"x": x, "t": t, "tokens": words})[0]
            return x0

        return sampling.generate(
            denoise, words, seeds, kind=variant.kind, steps=variant.steps, guidance=variant.guidance
        )

    def confidence(self, images: npt.NDArray[np.uint8], words: npt.NDArray[np.int64]) -> Doubles:
        """The discriminator's confidence in images."""
        feed = {"image": sampling.from_image(images), "tokens": words}
        return np.asarray(self._sessions["discriminator"].run(["confidence"], feed)[0], dtype=np.float64)


def run(models: ExportedModels, scenes: Sequence[grammar.Scene], seed: int, name: str) -> Evaluation:
    """Makes and judges both variants' images of ``scenes``; image i has seed ``seed * 10**6 + i``."""
    words = tokens.encode_all(scenes)
    seeds = [seed * 10**6 + index for index in range(len(scenes))]
    images: dict[str, list[npt.NDArray[np.uint8]]] = {"heavy": [], "light": []}
    started = reported = time.monotonic()
    for start in range(0, len(scenes), _CHUNK):
        for variant, parts in images.items():
            chosen = slice(start, start + _CHUNK)
            parts.append(models.generate(variant, words[chosen], seeds[chosen]))
        now = time.monotonic()
        if now - reported > _REPORT_EVERY_S:
            reported = now
            done = min(1.0, (start + _CHUNK) / len(scenes))
            logger.info(
                "%s: %.0f %% of %d prompts, about %.0f s left",
                name,
                100 * done,
                len(scenes),
                (now - started) * (1 / done - 1),
            )
    heavy, light = (_judge(np.concatenate(images[variant]), scenes) for variant in ("heavy", "light"))
    return Evaluation(
        scenes=tuple(scenes),
        objects=np.asarray([len(scene.objects) for scene in scenes]),
        heldout=np.asarray([grammar.split_of(scene) == "heldout" for scene in scenes]),
        heavy=heavy,
        light=light,
        confidence=models.confidence(light.images, words),
    )


def scenes_of(split: grammar.Split, count: int, seed: int) -> list[grammar.Scene]:
    """``count`` scenes of a split with equally many of each number of shapes."""
    rng = np.random.default_rng((seed, 100))
    return [grammar.sample_scene(rng, 1 + index % grammar.MAX_OBJECTS, split) for index in range(count)]


def measure_latency(models: ExportedModels, overhead_ms: float = 0.5) -> BatchLatencies:
    """Latency by batch size; the cost ratio is taken at batch 1 from interleaved calls, so that noise hits both."""
    rng = np.random.default_rng(0)
    medians: dict[str, dict[int, float]] = {"heavy": {}, "light": {}, "discriminator": {}}
    ratios = (0.0, 0.0)
    for batch in BATCHES:
        words = tokens.encode_all([grammar.sample_scene(rng) for _ in range(batch)])
        seeds = list(range(batch))
        images = models.generate("light", words, seeds)

        def heavy(words: npt.NDArray[np.int64] = words, seeds: list[int] = seeds) -> None:
            models.generate("heavy", words, seeds)

        def light(words: npt.NDArray[np.int64] = words, seeds: list[int] = seeds) -> None:
            models.generate("light", words, seeds)

        def judge(words: npt.NDArray[np.int64] = words, images: npt.NDArray[np.uint8] = images) -> None:
            models.confidence(images, words)

        times: dict[str, list[float]] = {name: [] for name in medians}
        for _ in range(61 if batch == 1 else 9):
            times["heavy"].append(_milliseconds(heavy))
            for _ in range(5):
                times["light"].append(_milliseconds(light))
                times["discriminator"].append(_milliseconds(judge))
        for name, values in times.items():
            medians[name][batch] = float(np.median(values))
        if batch == 1:
            slow, fast = medians["heavy"][1], medians["light"][1]
            ratios = slow / fast, (slow + overhead_ms) / (fast + overhead_ms)
    return BatchLatencies(medians["heavy"], medians["light"], medians["discriminator"], *ratios)


def write_labels(directory: pathlib.Path, prompts: int, file: pathlib.Path) -> None:
    """Writes what a prompt-hardness rule is fitted from: training prompts, both variants' scores, the confidence."""
    evaluation = run(ExportedModels(directory), scenes_of("train", prompts, _LABELS_SEED), _LABELS_SEED, "labels")
    np.savez_compressed(
        file,
        prompt=np.asarray([grammar.describe(scene) for scene in evaluation.scenes]),
        objects=evaluation.objects,
        light_q2=evaluation.light.q2,
        light_strict=evaluation.light.strict,
        heavy_q2=evaluation.heavy.q2,
        heavy_strict=evaluation.heavy.strict,
        confidence=evaluation.confidence,
    )
    logger.info("wrote %d rows to %s", prompts, file)


def _judge(images: npt.NDArray[np.uint8], scenes: Sequence[grammar.Scene]) -> ScoredImages:
    scores = [checker.check(image, scene) for image, scene in zip(images, scenes, strict=True)]
    adherence, strict, q2 = np.asarray([dataclasses.astuple(score) for score in scores], dtype=np.float64).T
    return ScoredImages(images, adherence, strict, q2)


def _milliseconds(call: Callable[[], None]) -> float:
    # On one thread the processor time is the latency of an idle machine; others' load does not enter it.
    started = time.process_time()
    call()
    return 1000 * (time.process_time() - started)
