"""Metrics that judge images: one module for each family of metrics, behind the `Judge` protocol.

A metric is either a mean over images (one value per image), or a Fréchet distance between the images that a cascade
would serve and a set of true images (one row of features per image). Both are kept for each image, so that one image of
each variant and prompt is enough for every cell of a profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cascade_api.command import CommandFailed
from cascade_models.shapes.render import IMAGE_SIZE

from ..workload import Workload
from .judge import Judge

__all__ = ["SHAPES_SIZE", "Judge", "make_judges"]

BUILTIN: Final = "shapes"
CLIP: Final = "clip"
SHAPES_SIZE: Final = f"{IMAGE_SIZE}x{IMAGE_SIZE}"


def make_judges(names: Sequence[str], workload: Workload, *, size: str, reference: Path | None) -> list[Judge]:
    """The judges that ``--metric`` names: ``shapes``, or ``clip=FOLDER`` for a local CLIP or PickScore model.

    Without names, the judge is ``shapes`` if the prompts are from its grammar. ``size`` is that of the images, such as
    ``1024x1024``. Raises CommandFailed if a judge cannot be used.
    """
    from .shapes import ShapesJudge

    if not names and not workload.scenes:
        raise CommandFailed(
            "--metric: no built-in metric can judge images of these prompts: name one, for example clip=FOLDER with a "
            "CLIP model in it",
            code=2,
        )
    judges: list[Judge] = []
    for text in names or [BUILTIN]:
        name, _, folder = text.partition("=")
        if name == BUILTIN and not folder:
            if not workload.scenes:
                raise CommandFailed("--metric shapes: the prompts are not of the shapes grammar: leave it out", code=2)
            if size != SHAPES_SIZE:
                raise CommandFailed(
                    f"--metric shapes: judges images of {SHAPES_SIZE}, and spec.sizes says {size}: name another "
                    "metric, for example clip=FOLDER with a CLIP model in it",
                    code=2,
                )
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
