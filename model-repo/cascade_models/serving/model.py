"""The Triton python-backend model: requests to orders, outcomes to responses. Imported by Triton's stub only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from cascade_models import pipelines
from cascade_models.recipe import Recipe
from cascade_models.serving import batches


class TritonPythonModel:
    """One variant on one replica; Triton hands it what its dynamic batcher gathered."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads weights and discriminator; an exception's message becomes the answer to the load request."""
        parameters = json.loads(args["model_config"])["parameters"]
        recipe = Recipe.of_parameters({key: value["string_value"] for key, value in parameters.items()})
        try:
            self._pipeline = pipelines.load(recipe)
        except (ValueError, RuntimeError) as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, whatever happens to the others."""
        try:
            outcomes = batches.run(self._pipeline, [_order(request) for request in requests])
        except Exception as error:
            # Triton would answer with a traceback; the log keeps it, the client gets the message.
            pb_utils.Logger.log_error(f"batch of {len(requests)} failed: {error!r}")
            failure = pb_utils.TritonError(f"generation failed: {error}", pb_utils.TritonError.INTERNAL)
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        return [_response(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]


def _order(request: Any) -> batches.Order:
    return batches.Order(
        prompts=_values(request, "prompt"),
        negative_prompts=_values(request, "negative_prompt"),
        seeds=_values(request, "seed"),
        confidence="confidence" in request.requested_output_names(),
        cancelled=request.is_cancelled,
    )


def _values(request: Any, name: str) -> list[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _response(request: Any, outcome: batches.Outcome) -> Any:
    if isinstance(outcome, batches.Refused):
        error = pb_utils.TritonError(outcome.message, pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=error)
    if isinstance(outcome, batches.Dropped):
        error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
        return pb_utils.InferenceResponse(error=error)
    tensors = []
    wanted = request.requested_output_names()
    if "image" in wanted:
        tensors.append(pb_utils.Tensor("image", np.ascontiguousarray(outcome.images)))
    if outcome.confidences is not None:
        tensors.append(pb_utils.Tensor("confidence", outcome.confidences.reshape(-1, 1).astype(np.float32)))
    return pb_utils.InferenceResponse(output_tensors=tensors)
