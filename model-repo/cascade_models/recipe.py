"""What a Triton model is told about its variant: written into `config.pbtxt` as parameters, read back when it loads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

BUILTIN: Final = "builtin://"
HUB: Final = "hf://"
FILE: Final = "file://"

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
"""What pins a revision of a repository: branches and tags can move."""


class RecipeError(ValueError):
    """A recipe cannot be followed; ``key`` names the part at fault, the message ends with what to do."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Assembly:
    """How a diffusers pipeline is put together and called; what is not said is as the model itself has it.

    Attributes:
        pipeline: class of the pipeline.
        dtype: number format on an accelerator; on the CPU it is always float32.
        guidance: scale of classifier-free guidance.
        base: source of everything but the denoiser, where the model's own source holds only that.
        base_revision: commit of the base.
        denoiser: file with the denoiser's weights, where there is a base; ``{steps}`` stands for the number of steps.
        scheduler: class of the scheduler, as ``class``, and changes to its configuration.
        arguments: more arguments of the pipeline's call.
    """

    pipeline: str = ""
    dtype: str = "bfloat16"
    guidance: float | None = None
    base: str = ""
    base_revision: str = ""
    denoiser: str = ""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How images of a variant are made and judged.

    Attributes:
        discriminator: its source; empty where nothing judges the images.
        batch: the largest batch that it must take.
    """

    source: str
    revision: str
    weights: str
    steps: int
    height: int
    width: int
    engine: str
    discriminator: str
    batch: int
    assembly: Assembly = Assembly()

    def parameters(self) -> dict[str, str]:
        """The recipe as text by key, which is all that a Triton model's parameters can be."""
        texts = {part.name: str(getattr(self, part.name)) for part in fields(self)}
        return {**texts, "assembly": json.dumps(asdict(self.assembly), sort_keys=True)}

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, str]) -> Recipe:
        """The inverse of `parameters`; raises KeyError where one is missing."""
        texts = {part.name: parameters[part.name] for part in fields(cls)}
        numbers = {key: int(texts.pop(key)) for key in ("steps", "height", "width", "batch")}
        assembly = Assembly(**json.loads(texts.pop("assembly")))
        return cls(**texts, **numbers, assembly=assembly)  # type: ignore[arg-type]
