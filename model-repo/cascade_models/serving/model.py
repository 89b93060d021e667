"""The Triton python-backend model: requests to orders, outcomes to responses. Imported by Triton's stub only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from cascade_models import pipelines
from cascade_models.engines import OutOfMemory
from cascade_models.recipe import Recipe
from cascade_models.serving import batches


class TritonPythonModel:
    """One variant on one replica; Triton hands it what its dynamic batcher gathered."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads weights and discriminator; an exception's message becomes the answer to the load request."""
        config = json.loads(args["model_config"])
        recipe = Recipe.of_parameters({key: value["string_value"] for key, value in config["parameters"].items()})
        self._streams = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        self._shown_steps = preview_steps(recipe.steps) if self._streams else frozenset[int]()
        try:
            self._pipeline = pipelines.load(recipe)
        except (ValueError, RuntimeError) as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """One response per request, whatever happens to the others; with previews, several that are sent at once."""
        if not self._streams:
            return self._respond(requests, [None] * len(requests))
        senders = [request.get_response_sender() for request in requests]
        responses = self._respond(requests, senders)
        for sender, response in zip(senders, responses, strict=True):
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _respond(self, requests: Sequence[Any], senders: Sequence[Any]) -> list[Any]:
        orders = [_order(request, sender) for request, sender in zip(requests, senders, strict=True)]
        try:
            outcomes = batches.run(self._pipeline, orders, shown_steps=self._shown_steps)
        except OutOfMemory as error:
            # Triton has no code for it. Clients know it by its words: a smaller batch would do.
            pb_utils.Logger.log_error(str(error))
            return _failures(requests, str(error), pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:
            # Triton would answer with a traceback; the log keeps it, the client gets the message.
            pb_utils.Logger.log_error(f"batch of {len(requests)} failed: {error!r}")
            return _failures(requests, f"generation failed: {error}", pb_utils.TritonError.INTERNAL)
        return [_response(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]


def preview_steps(steps: int) -> frozenset[int]:
    """After which steps (from 0) a stream shows how far it is: a quarter, a half and three quarters of the way."""
    return frozenset(step - 1 for step in (steps // 4, steps // 2, 3 * steps // 4) if 0 < step < steps)


def _order(request: Any, sender: Any) -> batches.Order:
    return batches.Order(
        prompts=_values(request, "prompt"),
        negative_prompts=_values(request, "negative_prompt"),
        seeds=_values(request, "seed"),
        confidence="confidence" in request.requested_output_names(),
        cancelled=request.is_cancelled,
        show=None if sender is None else lambda images: sender.send(_images(images)),
    )


def _values(request: Any, name: str) -> list[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _failures(requests: Sequence[Any], message: str, code: Any) -> list[Any]:
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)) for _ in requests]


def _images(images: npt.NDArray[np.uint8], *others: Any) -> Any:
    tensors = [pb_utils.Tensor("image", np.ascontiguousarray(images)), *others]
    return pb_utils.InferenceResponse(output_tensors=tensors)


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
