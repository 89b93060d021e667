"""What says whether a light image is good enough: one interface, whatever network stands behind it.

A **confidence** is a calibrated probability, 0 to 1, that an image passes what its discriminator was trained on: for
the built-in shapes, that everything in the image is as the prompt asks; for a discriminator of your own, that its label
is 1, or its score reaches the mark that it was trained with (``good`` in ``discriminator.json``). Of the images with a
confidence of 0.8, eight in ten pass, as far as they are like those that it was calibrated on. Routers need no more than
its order: the share that escalates is set by the plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cascade_models.discriminators.judge import DiscriminatorError, LoadedDiscriminator

__all__ = ["BUILTIN", "SUFFIXES", "DiscriminatorError", "LoadedDiscriminator", "load"]

BUILTIN: Final = "builtin://shapes"
SUFFIXES: Final = (".onnx", ".safetensors", ".json", ".txt")
"""What the files of a trained one end with."""


def load(source: str, folder: Path | None = None) -> LoadedDiscriminator:
    """The discriminator of a source: the built-in one of the shapes, or the one that training left in ``folder``.

    Raises DiscriminatorError where it is not there, not whole, or cannot be run.
    """
    if source == BUILTIN:
        from cascade_models.discriminators import shapes

        return shapes.load()
    if folder is None:
        raise DiscriminatorError(
            f"{source!r} is not built in: name the folder of a trained one, or write {BUILTIN} for the shapes"
        )
    from cascade_models.discriminators import exported

    return exported.load(folder)
