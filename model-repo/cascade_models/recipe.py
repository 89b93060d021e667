"""What a Triton model is told about its weights, and how a request wants them to draw.

The recipe of weights is written into `config.pbtxt` as parameters and read back when the model loads. Settings come
with each request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

_DECIMAL: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")

BUILTIN: Final = "builtin://"
HUB: Final = "hf://"
FILE: Final = "file://"

_NESTED: Final = ("settings", "assembly")

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
"""What pins a revision of a repository: branches and tags can move."""


class RecipeError(ValueError):
    """A recipe cannot be followed; ``key`` names the part at fault, the message ends with what to do."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Settings:
    """How images are drawn: all in which requests to the same weights may differ.

    Attributes:
        guidance: scale of classifier-free guidance; None: as the model itself has it.
    """

    steps: int
    guidance: float | None = None

    def parameters(self) -> dict[str, int | str]:
        """What a request says in its parameters to have these."""
        return {"steps": self.steps, **({} if self.guidance is None else {"guidance": f"{self.guidance:.3f}"})}

    @classmethod
    def read(cls, parameters: Mapping[str, object], default: Settings) -> Settings:
        """What a request's parameters ask for; raises ValueError that names the parameter."""
        steps, guidance = parameters.get("steps", default.steps), parameters.get("guidance")
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise ValueError(f"steps: {steps!r:.60} is not a number of steps; write a whole number")
        if guidance is None:
            return cls(steps, default.guidance)
        if not (isinstance(guidance, str) and _DECIMAL.fullmatch(guidance)):
            raise ValueError(f'guidance: {guidance!r:.60} is not a scale; write a number as text, such as "4.5"')
        return cls(steps, float(guidance))


@dataclass(frozen=True)
class Assembly:
    """How a diffusers pipeline is put together and called; what is not said is as the model itself has it.

    Attributes:
        pipeline: class of the pipeline.
        dtype: number format on an accelerator; on the CPU it is always float32.
        guidance: scale of classifier-free guidance where a request does not say.
        base: source of everything but the denoiser, where the model's own source holds only that.
        base_revision: commit of the base.
        denoiser: file with the denoiser's weights, where there is a base; ``{weights}`` stands for the named part.
        steps: the only number of steps that the denoiser is for.
        scheduler: class of the scheduler, as ``class``, and changes to its configuration.
        arguments: more arguments of the pipeline's call.
    """

    pipeline: str = ""
    dtype: str = "bfloat16"
    guidance: float | None = None
    base: str = ""
    base_revision: str = ""
    denoiser: str = ""
    steps: int | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How the images of weights are made and judged.

    Attributes:
        weights: which of the source's, by name; empty where it has one.
        precision: number format by what a manifest calls it; empty where it leaves that to the catalogue.
        discriminator: its source; empty where nothing judges the images.
        batch: the largest batch that it must take.
        settings: those of the variants that these weights are known to serve, by the variant's name.
    """

    source: str
    revision: str
    weights: str
    engine: str
    precision: str
    height: int
    width: int
    discriminator: str
    batch: int
    settings: Mapping[str, Settings]
    assembly: Assembly = Assembly()

    @property
    def default(self) -> Settings:
        """What a request gets that names none: the fewest steps of a variant, with the model's own guidance."""
        return Settings(min(each.steps for each in self.settings.values()), self.assembly.guidance)

    def parameters(self) -> dict[str, str]:
        """The recipe as text by key, which is all that a Triton model's parameters can be."""
        whole = asdict(self)
        texts = {key: str(value) for key, value in whole.items()}
        return {**texts, **{key: json.dumps(whole[key], sort_keys=True) for key in _NESTED}}

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, str]) -> Recipe:
        """The inverse of `parameters`; raises KeyError where one is missing."""
        texts = {part.name: parameters[part.name] for part in fields(cls)}
        numbers = {key: int(texts.pop(key)) for key in ("height", "width", "batch")}
        settings, assembly = (json.loads(texts.pop(key)) for key in _NESTED)
        return cls(
            **texts,  # type: ignore[arg-type]
            **numbers,  # type: ignore[arg-type]
            settings={variant: Settings(**values) for variant, values in settings.items()},
            assembly=Assembly(**assembly),
        )
