"""One image per variant and prompt, made by a real Triton and judged by the domain's checker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade_models import repository
from cascade_models.manifest import Variant
from cascade_models.shapes import checker

from .grid import Floats
from .progress import Progress
from .replica import Answer, Replica
from .workload import Workload

METRICS = ("q2", "strict", "adherence")


@dataclass(frozen=True)
class Judged:
    """Values by metric and confidences of one variant's images, one per prompt."""

    values: dict[str, Floats]
    confidence: Floats


def measure_images(
    variants: Sequence[Variant], workload: Workload, *, directory: Path, cores: Sequence[int], progress: Progress
) -> dict[str, Judged]:
    """Images of all variants, judged; made on several replicas at once, one per core."""
    repository.render(variants, directory)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(cores)))
        replicas = [stack.enter_context(Replica(directory, core=core)) for core in cores]
        return {variant.name: _judge_variant(variant, workload, replicas, pool, progress) for variant in variants}


def _judge_variant(
    variant: Variant, workload: Workload, replicas: Sequence[Replica], pool: ThreadPoolExecutor, progress: Progress
) -> Judged:
    list(pool.map(lambda replica: replica.load(variant.name), replicas))
    count, batch = len(workload.prompts), variant.batch
    begun = time.monotonic()
    rows: list[npt.NDArray[np.float64]] = []
    confidences: list[npt.NDArray[np.float32]] = []
    # A round is one batch per replica; the images of a round are checked while the next one is made.
    step = batch * len(replicas)
    pending: list[tuple[int, Answer]] = []
    for at in range(0, count, step):
        starts = range(at, min(at + step, count), batch)
        calls = [
            pool.submit(_ask, replica, variant, workload, start)
            for replica, start in zip(replicas, starts, strict=False)
        ]
        _check(pending, workload, rows, confidences)
        pending = [(start, call.result()) for start, call in zip(starts, calls, strict=True)]
        done = min(at + step, count)
        progress.at(images_step(variant), done / count, (time.monotonic() - begun) * (count - done) / done)
    _check(pending, workload, rows, confidences)
    for replica in replicas:
        replica.unload(variant.name)
    table = np.stack(rows)
    values = {metric: table[:, column] for column, metric in enumerate(METRICS)}
    means = ", ".join(f"{metric} {values[metric].mean():.3f}" for metric in METRICS)
    progress.done(images_step(variant), f"{count} images, {means}")
    return Judged(values, np.concatenate(confidences).astype(np.float64))


def images_step(variant: Variant) -> str:
    """How progress speaks of a variant's images."""
    return f"{variant.name}, images"


def _ask(replica: Replica, variant: Variant, workload: Workload, start: int) -> Answer:
    count = min(variant.batch, len(workload.prompts) - start)
    prompts, seeds = workload.slice(start, count)
    return replica.ask(variant.name, prompts, seeds, confidence=True)


def _check(
    pending: Sequence[tuple[int, Answer]],
    workload: Workload,
    rows: list[npt.NDArray[np.float64]],
    confidences: list[npt.NDArray[np.float32]],
) -> None:
    for start, answer in pending:
        for offset, image in enumerate(answer.images):
            scores = checker.check(image, workload.scenes[start + offset])
            rows.append(np.array([getattr(scores, metric) for metric in METRICS]))
        if answer.confidences is not None:
            confidences.append(answer.confidences)
