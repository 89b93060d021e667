"""The Triton python-backend model: requests to orders, outcomes to responses. Imported by Triton's stub only.

A batch ends for Triton when its requests have been read, so that the next one comes while images are made. Requests
that want the same settings are drawn together, whether they came together or not; `turns` says which come first. Each
is answered through a response sender when its images are made, by the threads that encode where files are of some size.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import triton_python_backend_utils as pb_utils

from cascade_models import pipelines
from cascade_models.engines import OutOfMemory
from cascade_models.pipelines.pipeline import AdapterError
from cascade_models.recipe import Recipe
from cascade_models.serving import batches, encoding
from cascade_models.serving.exchange import RequestExchange
from cascade_models.serving.following import Following
from cascade_models.serving.marking import Marker
from cascade_models.serving.pulse import Pulse
from cascade_models.serving.runs import Runs
from cascade_models.serving.turns import Turns

IMAGE: Final = "image"
IMAGE_ENCODED: Final = "image_encoded"
CONFIDENCE: Final = "confidence"
BATCH_TIME: Final = "batch_time"
PROMPT_TOKENS: Final = "prompt_tokens"

RUNS: Final = "runs"
"""The model's parameter that says how many runs may have begun at a time."""

WAITING_BATCHES: Final = 8
"""Batches that wait in the process; what comes beyond waits in the server. A prompt is small, but elsewhere it may be
drawn sooner."""


class TritonPythonModel:
    """Weights on one worker; Triton hands it what its dynamic batcher gathered."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads weights and discriminator; an exception's message becomes the answer to the load request."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._recipe = Recipe.of_parameters(parameters)
        self._streams = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        self._pulse = Pulse(partial(_end, config["name"]))
        try:
            self._marker = Marker.of_environment(os.environ, model=self._recipe.source, revision=self._recipe.revision)
            self._pipeline = pipelines.load(self._recipe)
        except (ValueError, RuntimeError) as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._following = Following(Path(args["model_repository"]) / "config.pbtxt", self._pipeline.follow)
        self._encoders = encoding.Encoders(_not_sent)
        batch = self._recipe.batch
        turns = Turns[batches.ReadRequest](batch=batch, runs=int(parameters[RUNS]))
        self._runs = Runs(self._make, turns, waiting=WAITING_BATCHES * batch)
        self._pulse.guard()

    def finalize(self) -> None:
        """Makes and sends what was asked for."""
        self._runs.close()
        self._encoders.close()
        self._following.close()
        self._pulse.close()

    def execute(self, requests: Sequence[Any]) -> None:
        """Takes requests in hand; every one is answered on its own, whatever happens to the others."""
        self._pulse.came(len(requests))
        readable = []
        for request in requests:
            order = self._order(request)
            try:
                readable.append(batches.read(self._pipeline, self._recipe, order))
            except ValueError as error:
                order.answer(batches.InvalidRequest(str(error)))
        self._runs.ask(readable)

    def _order(self, request: Any) -> batches.Order:
        sender, wanted = request.get_response_sender(), frozenset(request.requested_output_names())

        def send(response: Any, last: bool) -> None:
            try:
                sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)
            finally:
                if last:
                    self._pulse.answered()

        exchange = RequestExchange(sender.is_cancelled, send, self._pulse.settle)
        return batches.Order(
            prompts=_values(request, "prompt"),
            negative_prompts=_values(request, "negative_prompt"),
            seeds=_values(request, "seed"),
            images=_arrays(request, "image"),
            masks=_arrays(request, "mask"),
            parameters=json.loads(request.parameters() or "{}"),
            confidence=CONFIDENCE in wanted,
            count_tokens=PROMPT_TOKENS in wanted,
            cancelled=exchange.cancelled,
            show=partial(self._show, exchange, wanted) if self._streams else None,
            answer=partial(self._answer, exchange, wanted),
        )

    def _show(self, exchange: RequestExchange, wanted: frozenset[str], made: batches.RequestImages) -> None:
        number = exchange.number()
        self._encoders.do(lambda: exchange.show(number, _response(made, wanted)), _work(made, wanted))

    def _answer(self, exchange: RequestExchange, wanted: frozenset[str], outcome: batches.RequestOutcome | Any) -> None:
        self._encoders.do(lambda: exchange.answer(_response(outcome, wanted, self._marker)), _work(outcome, wanted))

    def _make(self, requests: Sequence[batches.ReadRequest]) -> None:
        """Draws and answers the requests of a run; where the whole run fails, each is answered by the error."""
        outcomes: Sequence[Any]
        try:
            outcomes = batches.make(self._pipeline, requests, self._runs.turn)
        except OutOfMemory as error:
            # Triton has no code for it. Clients know it by its words: a smaller batch would do.
            pb_utils.Logger.log_error(f"{error}; {self._runs.shrink()}")
            outcomes = [pb_utils.TritonError(str(error), pb_utils.TritonError.UNAVAILABLE)] * len(requests)
        except AdapterError as error:
            outcomes = [batches.InvalidRequest(str(error))] * len(requests)
        except Exception as error:
            # Triton would answer with a traceback; the log keeps it, the client gets the message.
            pb_utils.Logger.log_error(f"run of {len(requests)} failed: {error!r}")
            failure = pb_utils.TritonError(f"generation failed: {error}", pb_utils.TritonError.INTERNAL)
            outcomes = [failure] * len(requests)
        for request, outcome in zip(requests, outcomes, strict=True):
            request.order.answer(outcome)


def _end(model: str, reason: str) -> NoReturn:
    """Ends this process at once: nothing more may be said to the server, its log included."""
    sys.stderr.write(f"{model}: model process {os.getpid()} ends: {reason}\n")
    sys.stderr.flush()
    os._exit(1)


def _not_sent(error: Exception) -> None:
    pb_utils.Logger.log_error(f"an answer could not be sent: {error!r}")


def _values(request: Any, name: str) -> list[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _arrays(request: Any, name: str) -> list[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else list(tensor.as_numpy())


def _work(outcome: batches.RequestOutcome | Any, wanted: frozenset[str]) -> int:
    """Bytes of pixels that have to be encoded."""
    return outcome.images.nbytes if isinstance(outcome, batches.RequestImages) and IMAGE_ENCODED in wanted else 0


def _response(outcome: batches.RequestOutcome | Any, wanted: frozenset[str], marker: Marker | None = None) -> Any:
    """What Triton is given for an outcome: of what was made, the outputs that are wanted; files are marked."""
    if isinstance(outcome, batches.InvalidRequest):
        return _failure(pb_utils.TritonError(outcome.message, pb_utils.TritonError.INVALID_ARG))
    if isinstance(outcome, batches.CancelledRequest):
        return _failure(pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED))
    if not isinstance(outcome, batches.RequestImages):
        return _failure(outcome)
    tensors = []
    if IMAGE in wanted:
        tensors.append(pb_utils.Tensor(IMAGE, np.ascontiguousarray(outcome.images)))
    if IMAGE_ENCODED in wanted:
        try:
            files = [encoding.encode(image, outcome.form) for image in outcome.images]
            if marker is not None:
                files = [marker.mark(file, outcome.form.format) for file in files]
        except Exception as error:
            message = f"{IMAGE_ENCODED}: cannot be made: {error}"
            return _failure(pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))
        tensors.append(pb_utils.Tensor(IMAGE_ENCODED, np.array(files, dtype=np.object_).reshape(-1, 1)))
    if outcome.confidences is not None:
        tensors.append(pb_utils.Tensor(CONFIDENCE, outcome.confidences.reshape(-1, 1).astype(np.float32)))
    if BATCH_TIME in wanted:
        told = np.array([[outcome.batch_s, outcome.batch]] * len(outcome.images), dtype=np.float32)
        tensors.append(pb_utils.Tensor(BATCH_TIME, told))
    if PROMPT_TOKENS in wanted and outcome.tokens:
        tensors.append(pb_utils.Tensor(PROMPT_TOKENS, np.array(outcome.tokens, dtype=np.int32)))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _failure(error: Any) -> Any:
    return pb_utils.InferenceResponse(error=error)
