"""How images are judged: one module per family of metrics behind the `Judge` protocol.

A metric is a mean over images (one value each), or a Fréchet distance between the images that a cascade would serve
and a set of true ones (a row of features each). Both are kept per image, so that one image of each variant and prompt
gives every cell of a profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from cascade_api.command import CommandFailed
from cascade_api.profile import Metric

from ..workload import Workload

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]

BUILTIN: Final = "shapes"
CLIP: Final = "clip"


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


def make_judges(names: Sequence[str], workload: Workload, *, reference: Path | None) -> list[Judge]:
    """The judges that ``--metric`` names: ``shapes``, and ``clip=FOLDER`` for a local CLIP or PickScore model.

    Without any name, ``shapes`` where the prompts are of its grammar. Raises CommandFailed where one cannot judge here.
    """
    from .shapes import ShapesJudge

    if not names and not workload.scenes:
        raise CommandFailed(
            "--metric: nothing here can judge images of these prompts: name a metric, for example clip=FOLDER with a "
            "CLIP model in it",
            code=2,
        )
    judges: list[Judge] = []
    for text in names or [BUILTIN]:
        name, _, folder = text.partition("=")
        if name == BUILTIN and not folder:
            if not workload.scenes:
                raise CommandFailed("--metric shapes: the prompts are not of the shapes grammar: leave it out", code=2)
            judges.append(ShapesJudge())
        elif name == CLIP and folder:
            from .clip import ClipJudge

            judges.append(ClipJudge.load(Path(folder), reference=reference))
        else:
            raise CommandFailed(f"--metric: {text!r} is not a metric: write shapes, or clip=FOLDER", code=2)
    found = [metric.name for judge in judges for metric in (*judge.means, *judge.distances)]
    if len(set(found)) != len(found):
        raise CommandFailed(f"--metric: {', '.join(names)} give a metric twice: name each once", code=2)
    return judges
