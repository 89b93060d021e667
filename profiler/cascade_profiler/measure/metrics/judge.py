"""What a metric's module offers: a judge of images, and what its verdicts are."""

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
    """Of N images: ``[N]`` values by metric, and ``[N, K]`` features by Fréchet metric."""

    values: Mapping[str, Floats] = field(default_factory=dict)
    features: Mapping[str, Floats] = field(default_factory=dict)


class Judge(Protocol):
    """Judges images; deterministic."""

    identity: str
    """Changes when its verdicts would: verdicts of another identity are not used again."""
    means: Sequence[Metric]
    distances: Sequence[Metric]

    def judge(self, images: Images, workload: Workload, start: int) -> Verdicts:
        """Verdicts on the images ``[N, height, width, 3]`` of the workload's prompts from ``start`` on."""

    def reference(self, workload: Workload) -> Mapping[str, Floats]:
        """``[M, K]`` features of true images by Fréchet metric; row i belongs to prompt i where M is their number."""
