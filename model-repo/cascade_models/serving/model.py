"""The Triton python-backend model: requests to orders, outcomes to responses. Imported by Triton's stub only.

A batch ends for Triton when its images are made, so that the next one starts. With files of some size, answers leave
through response senders afterwards, from the threads that encode. A batch whose requests want several settings is made
one run after the other, and the answers of a run leave before the next one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import numpy as np
import triton_python_backend_utils as pb_utils

from cascade_models import pipelines
from cascade_models.engines import OutOfMemory
from cascade_models.recipe import Recipe
from cascade_models.serving import batches, encoding
from cascade_models.serving.exchange import RequestExchange
from cascade_models.serving.pulse import Pulse

IMAGE: Final = "image"
IMAGE_ENCODED: Final = "image_encoded"
CONFIDENCE: Final = "confidence"
BATCH_TIME: Final = "batch_time"


class TritonPythonModel:
    """Weights on one worker; Triton hands it what its dynamic batcher gathered."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads weights and discriminator; an exception's message becomes the answer to the load request."""
        config = json.loads(args["model_config"])
        self._recipe = Recipe.of_parameters({key: value["string_value"] for key, value in config["parameters"].items()})
        self._streams = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        self._pulse = Pulse(partial(_end, config["name"]))
        try:
            self._pipeline = pipelines.load(self._recipe)
        except (ValueError, RuntimeError) as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._encoders = encoding.Encoders(_not_sent)
        self._pulse.guard()

    def finalize(self) -> None:
        """Sends what is being encoded still."""
        self._encoders.close()
        self._pulse.close()

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Makes a batch; every request is answered on its own, whatever happens to the others."""
        with self._pulse.working():
            exchanges = [_exchange(request, self._pulse.settle) for request in requests]
            wanted = [frozenset(request.requested_output_names()) for request in requests]
            orders = [self._order(*each) for each in zip(requests, exchanges, wanted, strict=True)]
            outcomes: dict[int, Any]
            outcomes, runs = batches.sort(self._pipeline, self._recipe, orders)
            for number, run in enumerate(runs):
                if number:
                    self._send(outcomes, exchanges, wanted)
                    outcomes = {}
                outcomes |= self._made(orders, run, fresh=number == 0)
            for exchange in exchanges:
                exchange.close()
            work = sum(_work(outcome, wanted[index]) for index, outcome in outcomes.items())
            if not self._streams and len(outcomes) == len(requests) and work <= encoding.SMALL_BYTES:
                # A server survives the death of a process better that does not send one by one.
                return [_response(outcomes[index], names) for index, names in enumerate(wanted)]
            self._send(outcomes, exchanges, wanted)
            return None

    def _order(self, request: Any, exchange: RequestExchange, wanted: frozenset[str]) -> batches.Order:
        return batches.Order(
            prompts=_values(request, "prompt"),
            negative_prompts=_values(request, "negative_prompt"),
            seeds=_values(request, "seed"),
            parameters=json.loads(request.parameters() or "{}"),
            confidence=CONFIDENCE in wanted,
            cancelled=exchange.cancelled,
            show=partial(self._show, exchange, wanted) if self._streams else None,
        )

    def _show(self, exchange: RequestExchange, wanted: frozenset[str], made: batches.RequestImages) -> None:
        number = exchange.number()
        self._encoders.do(lambda: exchange.show(number, _response(made, wanted)), _work(made, wanted))

    def _made(self, orders: Sequence[batches.Order], run: batches.DenoisingRun, *, fresh: bool) -> dict[int, Any]:
        """The outcome of each order of a run; where the whole run failed, the error that answers each."""
        try:
            return batches.make(self._pipeline, orders, run, fresh=fresh)
        except OutOfMemory as error:
            # Triton has no code for it. Clients know it by its words: a smaller batch would do.
            pb_utils.Logger.log_error(str(error))
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:
            # Triton would answer with a traceback; the log keeps it, the client gets the message.
            pb_utils.Logger.log_error(f"batch of {len(run.rows)} failed: {error!r}")
            failure = pb_utils.TritonError(f"generation failed: {error}", pb_utils.TritonError.INTERNAL)
        return dict.fromkeys(run.rows, failure)

    def _send(
        self,
        outcomes: Mapping[int, batches.RequestOutcome | Any],
        exchanges: Sequence[RequestExchange],
        wanted: Sequence[frozenset[str]],
    ) -> None:
        """Answers requests one by one, as soon as their files are made."""
        for index, outcome in outcomes.items():
            answer = partial(_answer, exchanges[index], outcome, wanted[index])
            self._encoders.do(answer, _work(outcome, wanted[index]))


def _end(model: str, reason: str) -> NoReturn:
    """Ends this process at once: nothing more may be said to the server, its log included."""
    sys.stderr.write(f"{model}: model process {os.getpid()} ends: {reason}\n")
    sys.stderr.flush()
    os._exit(1)


def _exchange(request: Any, settle: Callable[[], None]) -> RequestExchange:
    sender = request.get_response_sender()

    def send(response: Any, last: bool) -> None:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)

    return RequestExchange(request.is_cancelled, send, settle)


def _not_sent(error: Exception) -> None:
    pb_utils.Logger.log_error(f"an answer could not be sent: {error!r}")


def _values(request: Any, name: str) -> list[Any]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def _work(outcome: batches.RequestOutcome | Any, wanted: frozenset[str]) -> int:
    """Bytes of pixels that have to be encoded."""
    return outcome.images.nbytes if isinstance(outcome, batches.RequestImages) and IMAGE_ENCODED in wanted else 0


def _answer(exchange: RequestExchange, outcome: batches.RequestOutcome | Any, wanted: frozenset[str]) -> None:
    exchange.answer(_response(outcome, wanted))


def _response(outcome: batches.RequestOutcome | Any, wanted: frozenset[str]) -> Any:
    """What Triton is given for an outcome: of what was made, the outputs that are wanted."""
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
        except Exception as error:
            message = f"{IMAGE_ENCODED}: cannot be made: {error}"
            return _failure(pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))
        tensors.append(pb_utils.Tensor(IMAGE_ENCODED, np.array(files, dtype=np.object_).reshape(-1, 1)))
    if outcome.confidences is not None:
        tensors.append(pb_utils.Tensor(CONFIDENCE, outcome.confidences.reshape(-1, 1).astype(np.float32)))
    if BATCH_TIME in wanted:
        told = np.array([[outcome.batch_s, outcome.batch]] * len(outcome.images), dtype=np.float32)
        tensors.append(pb_utils.Tensor(BATCH_TIME, told))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _failure(error: Any) -> Any:
    return pb_utils.InferenceResponse(error=error)
