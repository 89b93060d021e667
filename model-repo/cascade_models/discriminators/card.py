"""The card of a trained discriminator: the file ``discriminator.json`` beside its network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cascade_models.discriminators.judge import DiscriminatorError

FILE: Final = "discriminator.json"
NETWORK: Final = "discriminator.onnx"
WEIGHTS: Final = "discriminator.safetensors"
SCHEMA: Final = 1

Reading = Literal["hashed", "clip"]
"""How prompts are converted to numbers."""


@dataclass(frozen=True)
class Card:
    """The inputs of a discriminator's network, the meaning of its confidence, and its measured quality.

    Attributes:
        architecture: ``efficientnetv2-s`` or ``clip-head``.
        size: height and width of the network's images in pixels; other images are resized.
        mean, std: the mean and standard deviation of each colour, 0 to 1, for normalising images.
        reading: how prompts are converted to numbers.
        length: how many numbers a prompt has.
        good: in words, what a good image is.
        figures: the figures measured on held-out prompts.
        training: how it was trained.
        sha256: digests of the files by name.
    """

    architecture: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    reading: Reading
    length: int
    good: str
    figures: Mapping[str, Any]
    training: Mapping[str, Any]
    sha256: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write the card into a folder, atomically; it is written last, since it marks the folder as complete."""
        scratch = folder / f".{FILE}"
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        scratch.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        scratch.replace(folder / FILE)


def read(folder: Path) -> Card:
    """The card of a folder, after checking that its files are complete; raises DiscriminatorError."""
    file = folder / FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DiscriminatorError(
            f"{folder} has no discriminator ({error.strerror}: {FILE}): train one with "
            "`python -m cascade_models.discriminators.training`"
        ) from None
    except ValueError as error:
        raise DiscriminatorError(f"{file} is corrupt ({error}): train again, or copy it again") from None
    try:
        if document.pop("schema") != SCHEMA:
            raise DiscriminatorError(f"{file} was written by another version: train again")
        card = Card(**document)
    except (TypeError, KeyError, AttributeError) as error:
        raise DiscriminatorError(f"{file} is not understood ({error}): train again, or copy it again") from None
    for name, digest in card.sha256.items():
        if not (folder / name).is_file():
            raise DiscriminatorError(f"{folder} lacks {name}: copy the whole folder")
        if digest_of(folder / name) != digest:
            raise DiscriminatorError(f"{folder / name} is not what was trained: copy the folder again")
    return card


def digest_of(file: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
