"""The protocol of the judges of images, and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cascade_api.profile import Metric

from ..workload import Workload

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on N images: values ``[N]`` by metric, and features ``[N, K]`` by Fréchet metric."""

    values: Mapping[str, Floats] = field(default_factory=dict)
    features: Mapping[str, Floats] = field(default_factory=dict)


class Judge(Protocol):
    """Judges images; the same images always get the same verdicts."""

    identity: str
    """Identifies the judge's version: recorded verdicts of another identity are not used."""
    means: Sequence[Metric]
    distances: Sequence[Metric]

    def judge(self, images: Images, workload: Workload, start: int) -> Verdicts:
        """The verdicts on images ``[N, height, width, 3]`` of the workload's prompts from ``start`` on."""

    def reference(self, workload: Workload) -> Mapping[str, Floats]:
        """Features ``[M, K]`` of true images by Fréchet metric; if there is one per prompt, row i is prompt i's."""
