"""How a worker is asked for images: which Triton model has the weights, and what a request says of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Parameters = Mapping[str, int | str]
"""Parameters of a request by name."""


def model_of_weights(digest: str) -> str:
    """Name of the Triton model of the weights with this digest; `cascade_models.manifest` says it in the same way."""
    return f"weights-{digest}"


def settings_parameters(steps: int, guidance: str | None) -> dict[str, int | str]:
    """What a request says of the settings of a variant; `cascade_models.recipe` reads it."""
    return {"steps": steps, **({} if guidance is None else {"guidance": guidance})}


def add_parameters(request: Any, parameters: Parameters) -> None:
    """Writes parameters into a ModelInferRequest."""
    for name, value in parameters.items():
        if isinstance(value, int):
            request.parameters[name].int64_param = value
        else:
            request.parameters[name].string_param = value
