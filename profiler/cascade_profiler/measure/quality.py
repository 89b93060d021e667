"""Lets a real Triton make one image per variant and prompt, judges it, and records values, features and confidences.

The images themselves are not kept, except for a few that a report shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cascade_api.command import CommandFailed
from cascade_models import repository
from cascade_models.manifest import ManifestVariant

from .grid import Floats, Side
from .metrics import Judge
from .places import Place, identity
from .progress import Progress
from .records import Arrays, Records
from .replica import GeneratedImages, MeasuredReplica
from .workload import Workload

DRAWN: Final = "drawn"
SHOWN: Final = 8
"""Of how many prompts, the first ones, the images are kept for the report."""


@dataclass(frozen=True)
class Judged:
    """The verdicts and confidences of one variant's images, one per prompt, and the images of the first prompts."""

    side: Side
    confidence: Floats
    shown: npt.NDArray[np.uint8]


class Drawing:
    """Makes and judges images of variants on several replicas at the same time; it uses what is on record."""

    def __init__(
        self,
        workload: Workload,
        judges: Sequence[Judge],
        *,
        directory: Path,
        place: Place,
        records: Records,
        progress: Progress,
    ) -> None:
        self._workload = workload
        self._judges = judges
        self._directory = directory
        self._cores = place.drawing_cores
        self._records = records
        self._progress = progress

    def measure(self, variants: Sequence[ManifestVariant]) -> dict[str, Judged]:
        """The judged images of all variants by name; each request has as many images as the variant's ``batch``."""
        wanted = [variant for variant in variants if self._missing(variant)]
        if wanted:
            repository.render(repository.models_of(wanted), self._directory)
            with ExitStack() as stack:
                pool = stack.enter_context(ThreadPoolExecutor(len(self._cores)))
                replicas = [stack.enter_context(MeasuredReplica(self._directory, core=core)) for core in self._cores]
                for model in dict.fromkeys(variant.model for variant in wanted):
                    list(pool.map(lambda replica, name=model: replica.load(name), replicas))
                    for variant in wanted:
                        if variant.model == model:
                            self._draw(variant, replicas, pool)
                    for replica in replicas:
                        replica.unload(model)
        return {variant.name: self._judged(variant) for variant in variants}

    def _draw(self, variant: ManifestVariant, replicas: Sequence[MeasuredReplica], pool: ThreadPoolExecutor) -> None:
        missing, begun = self._missing(variant), time.monotonic()
        pending: list[tuple[int, GeneratedImages]] = []
        for at in range(0, len(missing), len(replicas)):
            starts = missing[at : at + len(replicas)]
            calls = [
                pool.submit(self._ask, replica, variant, start)
                for replica, start in zip(replicas, starts, strict=False)
            ]
            # The images of one round are judged while those of the next one are made.
            self._judge(variant, pending)
            pending = [(start, call.result()) for start, call in zip(starts, calls, strict=True)]
            share = (at + len(starts)) / len(missing)
            self._progress.at(images_step(variant), share, (time.monotonic() - begun) * (1 / share - 1))
        self._judge(variant, pending)

    def _ask(self, replica: MeasuredReplica, variant: ManifestVariant, start: int) -> GeneratedImages:
        count = min(variant.batch, len(self._workload.prompts) - start)
        prompts, seeds = self._workload.slice(start, count)
        answer = replica.ask(variant.model, variant.settings, prompts, seeds, confidence=True)
        check_size(variant, answer)
        return answer

    def _judge(self, variant: ManifestVariant, pending: Sequence[tuple[int, GeneratedImages]]) -> None:
        for start, answer in pending:
            parts: dict[str, npt.NDArray[Any]] = {"confidence": np.asarray(answer.confidences, dtype=np.float64)}
            for judge in self._judges:
                verdicts = judge.judge(answer.images, self._workload, start)
                parts |= {f"value {name}": value for name, value in verdicts.values.items()}
                parts |= {f"features {name}": rows.astype(np.float32) for name, rows in verdicts.features.items()}
            if start < SHOWN:
                parts["images"] = answer.images[: SHOWN - start]
            self._records.add_arrays(DRAWN, self._key(variant, start), parts)

    def _missing(self, variant: ManifestVariant) -> list[int]:
        """The index of the first prompt of each request that is not on record."""
        starts = range(0, len(self._workload.prompts), variant.batch)
        return [start for start in starts if not self._records.has(DRAWN, self._key(variant, start))]

    def _judged(self, variant: ManifestVariant) -> Judged:
        starts = range(0, len(self._workload.prompts), variant.batch)
        parts: list[Arrays] = [self._records.arrays(DRAWN, self._key(variant, start))[0] for start in starts]
        shown = [part["images"] for part in parts if "images" in part]

        def whole(name: str) -> Floats:
            return np.concatenate([part[name] for part in parts]).astype(np.float64)

        values = {metric.name: whole(f"value {metric.name}") for judge in self._judges for metric in judge.means}
        features = {
            metric.name: whole(f"features {metric.name}") for judge in self._judges for metric in judge.distances
        }
        figures = ", ".join(f"{name} {value.mean():.3f}" for name, value in values.items())
        self._progress.done(images_step(variant), f"{len(self._workload.prompts)} images, {figures}")
        return Judged(Side(values, features), whole("confidence"), np.concatenate(shown))

    def _key(self, variant: ManifestVariant, start: int) -> dict[str, Any]:
        # A request is known by its own prompts, so that a run with more prompts uses the images of one with fewer.
        return {
            "model": identity(variant),
            "prompts": self._workload.part(start, start + variant.batch).identity,
            "judges": [[judge.identity, [metric.name for metric in judge.distances]] for judge in self._judges],
            "shown": start < SHOWN,
        }


def check_size(variant: ManifestVariant, answer: GeneratedImages) -> None:
    """Raise CommandFailed if images do not have the size in the manifest."""
    found, wanted = answer.images.shape[1:], (variant.height, variant.width, 3)
    if found != wanted:
        raise CommandFailed(
            f"{variant.name}: images are {' x '.join(map(str, found[:2]))} pixels (height x width), the manifest says "
            f"{wanted[0]} x {wanted[1]}: correct spec.sizes"
        )


def images_step(variant: ManifestVariant) -> str:
    """The name of the step that makes a variant's images."""
    return f"{variant.name}, images"
