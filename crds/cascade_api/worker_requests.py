"""How requests to a worker name weights and settings: weights are a Triton model, settings are parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Parameters = Mapping[str, int | str]
"""The parameters of a request, by name."""
_MODEL_PREFIX: Final = "weights-"


def model_of_weights(digest: str) -> str:
    """Name of the Triton model of the weights with this digest; `cascade_models.manifest` builds the same name."""
    return f"{_MODEL_PREFIX}{digest}"


def weights_of_model(model: str) -> str:
    """The digest of the weights of a Triton model: the inverse of `model_of_weights`."""
    return model.removeprefix(_MODEL_PREFIX)


def settings_parameters(
    steps: int, guidance: str | None, guidance_interval: str | None, step_cache: str | None
) -> dict[str, int | str]:
    """The settings of a variant as parameters of a request; `cascade_models.recipe` reads them."""
    texts = {"guidance": guidance, "guidance_interval": guidance_interval, "step_cache": step_cache}
    return {"steps": steps, **{name: text for name, text in texts.items() if text is not None}}


def add_parameters(request: Any, parameters: Parameters) -> None:
    """Write parameters into a ModelInferRequest."""
    for name, value in parameters.items():
        if isinstance(value, int):
            request.parameters[name].int64_param = value
        else:
            request.parameters[name].string_param = value
