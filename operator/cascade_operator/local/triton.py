"""A client of one Triton server: readiness, change of model, and inferences that show whether it works."""

from __future__ import annotations

import asyncio
import re
import struct
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cascade_api.names import GRPC_DIRECT, INPUT_PROMPT, OUTPUT_IMAGE, PROBE_PROMPT, START_TIMEOUT_S
from cascade_api.worker_requests import Parameters, add_parameters

CALL_TIMEOUT_S: Final = 2.0
COUNTS_TIMEOUT_S: Final = 5.0
"""If a server does not even return its counts within this time, it hangs, however busy the machine is."""
UNLOAD_TIMEOUT_S: Final = 5.0

_RESTRICTED: Final = "This protocol is restricted"
"""Triton's message, with UNAVAILABLE, when it refuses a locked call; the server itself works."""
_NOT_LOADED: Final = re.compile(r"UNAVAILABLE state: (?:Internal: )?(?:TritonModelException: )?(.+)")
_OPTIONS: Final = (
    GRPC_DIRECT,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)


class TritonError(Exception):
    """A call to the server failed; the message says how."""


@dataclass(frozen=True)
class InferenceCounts:
    """Requests since a model was loaded: those that its process took (successes to Triton), and those that failed."""

    succeeded: int
    failed: int


class TritonClient:
    """One server's gRPC endpoint. Calls raise TritonError."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def alive(self) -> bool:
        """Whether the server answers at all."""
        try:
            answer = await self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest(), CALL_TIMEOUT_S)
        except TritonError:
            return False
        return bool(answer.live)

    async def model_ready(self, model: str) -> bool:
        """Whether the server says that it serves a model, which does not show that the model's process works."""
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            answer = await self._call(self._stub.ModelReady, request, CALL_TIMEOUT_S)
        except TritonError:
            return False
        return bool(answer.ready)

    async def load(self, model: str) -> None:
        """Load a model from the server's repository, or load it again."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._call(self._stub.RepositoryModelLoad, request, START_TIMEOUT_S)

    async def unload(self, model: str) -> None:
        """Unload a model; inferences that have begun are still answered."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._call(self._stub.RepositoryModelUnload, request, UNLOAD_TIMEOUT_S)

    async def counts(self, model: str) -> InferenceCounts:
        """How many requests a model has taken and failed since it was loaded."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        answer = await self._call(self._stub.ModelStatistics, request, COUNTS_TIMEOUT_S)
        stats = [entry.inference_stats for entry in answer.model_stats]
        return InferenceCounts(sum(s.success.count for s in stats), sum(s.fail.count for s in stats))

    async def probe(self, model: str, parameters: Parameters, *, timeout_s: float) -> None:
        """Have the model draw a picture; ``parameters`` are the settings."""
        await self._call(self._stub.ModelInfer, probe_request(model, parameters), timeout_s)

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            details = error.details() or "no details"
            if details.startswith(_RESTRICTED):
                raise TritonError("the server keeps this call locked: control it over its Unix socket") from None
            raise TritonError(f"{error.code().name}: {why_not_loaded(details) or details}") from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise TritonError(f"the connection was closed: {error}") from None


def why_not_loaded(text: str) -> str:
    """What a server's log or answer says about models that it could not load, without tracebacks; may be empty."""
    return "; ".join(dict.fromkeys(_NOT_LOADED.findall(text)))


def probe_request(model: str, parameters: Parameters) -> Any:
    """An inference that every model can answer."""
    prompt = PROBE_PROMPT.encode()
    request = service_pb2.ModelInferRequest(model_name=model, id="probe")
    add_parameters(request, parameters)
    request.inputs.add(name=INPUT_PROMPT, datatype="BYTES", shape=[1, 1])
    request.outputs.add(name=OUTPUT_IMAGE)
    request.raw_input_contents.append(struct.pack("<I", len(prompt)) + prompt)
    return request
