"""Discriminators judge whether a light image is good enough. They all have the same interface.

A **confidence** is a calibrated probability, 0 to 1, that an image is good. For the built-in shapes, an image is good
if everything in it is as the prompt asks. For a discriminator that you train, it is good if its label is 1, or if its
score is at least the one given in training (``good`` in ``discriminator.json``). Eight of ten images with a confidence
of 0.8 are good, if they are similar to the images used for calibration. Routers only use the order of confidences: the
plan sets the share that escalates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cascade_models.discriminators.judge import DiscriminatorError, LoadedDiscriminator

__all__ = ["BUILTIN", "SUFFIXES", "DiscriminatorError", "LoadedDiscriminator", "load"]

BUILTIN: Final = "builtin://shapes"
SUFFIXES: Final = (".onnx", ".safetensors", ".json", ".txt")
"""The suffixes of a trained discriminator's files."""


def load(source: str, folder: Path | None = None) -> LoadedDiscriminator:
    """The discriminator of a source: the built-in one for shapes, or the one that training has written to ``folder``.

    Raises DiscriminatorError if it is missing or incomplete, or cannot be run.
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
