"""Finds and checks the files of the shapes models, and reads their metadata.

``weights/metadata.json`` holds the SHA-256 of every weight file, how the variants are meant to be run, and how they
were trained. ``revision()`` is what a manifest pins as ``revision``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any, Final, Literal

ModelName = Literal["heavy", "light", "discriminator"]
Format = Literal["onnx", "safetensors", "int8.onnx"]

MODELS: Final[tuple[ModelName, ...]] = ("heavy", "light", "discriminator")
DENOISERS: Final[tuple[ModelName, ...]] = ("heavy", "light")
FORMATS: Final[tuple[Format, ...]] = ("onnx", "safetensors")
QUANTISED: Final[Format] = "int8.onnx"
"""What `training.quantise` makes of a denoiser's ONNX file. It follows from that, so the revision is without it."""
WEIGHTS: Final = pathlib.Path(__file__).parent / "weights"
METADATA: Final = "metadata.json"

_FIX: Final = "run `make models`, or restore the file from the repository"


class AssetError(RuntimeError):
    """A weight file is missing or corrupt; the message names the file and the fix."""


@dataclasses.dataclass(frozen=True, slots=True)
class SamplerSettings:
    """How a denoiser should be run: the kind of sampler, its steps, and the guidance scale."""

    kind: Literal["heavy", "light"]
    steps: int
    guidance: float


@dataclasses.dataclass(frozen=True, slots=True)
class ShapesMetadata:
    """The content of ``metadata.json``: variants by name, SHA-256 by file, training seed and date; and as a whole."""

    variants: dict[str, SamplerSettings]
    digests: dict[str, str]
    seed: int
    trained: str
    document: dict[str, Any]


def path(model: ModelName, form: Format = "onnx", directory: pathlib.Path = WEIGHTS) -> pathlib.Path:
    """The file of a model.

    Raises:
        AssetError: it does not exist.
    """
    file = directory / f"{model}.{form}"
    if not file.is_file():
        raise AssetError(f"weights are missing: {file} does not exist; {_FIX}")
    return file


def metadata(directory: pathlib.Path = WEIGHTS) -> ShapesMetadata:
    """The metadata beside the weights.

    Raises:
        AssetError: it is missing or cannot be read.
    """
    file = directory / METADATA
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return ShapesMetadata(
            variants={name: SamplerSettings(**values) for name, values in document["variants"].items()},
            digests={name: str(value) for name, value in document["sha256"].items()},
            seed=int(document["training"]["seed"]),
            trained=str(document["training"]["date"]),
            document=document,
        )
    except FileNotFoundError:
        raise AssetError(f"weights are missing: {file} does not exist; {_FIX}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"weights are corrupt: {file} is not understood ({error!r}); {_FIX}") from error


def digests(directory: pathlib.Path = WEIGHTS) -> dict[str, str]:
    """SHA-256 of every weight file, by file name in alphabetical order.

    Raises:
        AssetError: one is missing.
    """
    files = sorted((path(model, form, directory) for model in MODELS for form in FORMATS), key=lambda file: file.name)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def revision(directory: pathlib.Path = WEIGHTS) -> str:
    """SHA-256, 64 hex digits, over the names and contents of all weight files.

    Raises:
        AssetError: one is missing.
    """
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests(directory).items())
    return hashlib.sha256(lines.encode()).hexdigest()


def verify(directory: pathlib.Path = WEIGHTS) -> ShapesMetadata:
    """The metadata, after checking that every weight file has the SHA-256 in it.

    Raises:
        AssetError: a file is missing or differs.
    """
    known = metadata(directory)
    made = [path(model, QUANTISED, directory) for model in DENOISERS]
    quantised = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in made}
    for name, digest in {**digests(directory), **quantised}.items():
        if known.digests.get(name) != digest:
            raise AssetError(
                f"weights are corrupt: {directory / name} has SHA-256 {digest[:12]}…, not what {METADATA} says; {_FIX}"
            )
    return known
