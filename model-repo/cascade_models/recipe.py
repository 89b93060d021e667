"""What a Triton model is told about its variant: written into `config.pbtxt` as parameters, read back when it loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

BUILTIN = "builtin://"


class RecipeError(ValueError):
    """A recipe cannot be followed; ``key`` names the part at fault, the message ends with what to do."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Recipe:
    """How images of a variant are made and judged."""

    source: str
    revision: str
    weights: str
    steps: int
    height: int
    width: int
    engine: str
    discriminator: str

    def parameters(self) -> dict[str, str]:
        """The recipe as text by key, which is all that a Triton model's parameters can be."""
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, str]) -> Recipe:
        """The inverse of `parameters`; raises KeyError where one is missing."""
        texts = {field.name: parameters[field.name] for field in fields(cls)}
        numbers = {key: int(texts.pop(key)) for key in ("steps", "height", "width")}
        return cls(**texts, **numbers)  # type: ignore[arg-type]
