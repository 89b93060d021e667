"""Sends single requests to the service. Each ends with an answer, a refusal, a lost connection, or no answer at all."""

from __future__ import annotations

import asyncio
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from cascade_api.command import CommandFailed
from cascade_api.names import GRPC_DIRECT, INPUT_HEIGHT, INPUT_PROMPT, INPUT_WIDTH, OUTPUT_IMAGE
from cascade_api.quantities import pixels

CHANNELS: Final = 4
"""Number of connections; one carries at most a hundred calls at a time."""
SLACK_S: Final = 30.0
"""How long after its deadline a request counts as silent. It is longer than the stalls of a busy machine."""
RECONNECT_S: Final = 15.0
"""How long a repeated request waits for the service to come back."""

_OPTIONS: Final = (
    GRPC_DIRECT,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)
REFUSAL_KEY: Final = "cascade-reason"
"""Trailing metadata in which the router gives the reason of a refusal; a broken connection has none."""


@dataclass(frozen=True)
class Reply:
    """An image and how it was made."""

    request_id: str
    route: str
    image: npt.NDArray[np.uint8]


class RefusedByService(Exception):
    """The service refused the request."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class ConnectionLost(Exception):
    """The connection broke before an answer came, or could not be made."""


class NoAnswer(Exception):
    """Neither an answer nor a refusal came in time."""


class Client:
    """Connections to one service, for one model."""

    def __init__(self, address: str, *, model: str, deadline_s: float) -> None:
        self._model = model
        self._deadline_s = deadline_s
        self._channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(CHANNELS)]
        self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(self, request_id: str, prompt: str, *, size: str = "", again: bool = False) -> Reply:
        """Request one image of a size, or of the default if that is empty.

        With ``again``, after a lost connection, it waits until the service can be reached.

        Raises RefusedByService, ConnectionLost or NoAnswer.
        """
        timeout_s = self._deadline_s + SLACK_S + (RECONNECT_S if again else 0)
        began = asyncio.get_running_loop().time()
        try:
            response = await self._stub(request_id).ModelInfer(
                self._request(request_id, prompt, size), timeout=timeout_s, wait_for_ready=again
            )
        except grpc.aio.AioRpcError as error:
            waited_s = asyncio.get_running_loop().time() - began
            raise _failure(error, expired=waited_s >= timeout_s - 0.1) from None
        return _reply(response)

    def _stub(self, request_id: str) -> Any:
        """The connection of a request, which is the same for both tries, so that the second waits until it is back."""
        return self._stubs[zlib.crc32(request_id.encode()) % CHANNELS]

    def _request(self, request_id: str, prompt: str, size: str) -> Any:
        request = service_pb2.ModelInferRequest(model_name=self._model, id=request_id)
        request.inputs.add(name=INPUT_PROMPT, datatype="BYTES", shape=[1])
        request.outputs.add(name=OUTPUT_IMAGE)
        request.outputs.add(name="route")
        request.parameters["deadline_ms"].int64_param = round(self._deadline_s * 1000)
        text = prompt.encode()
        request.raw_input_contents.append(struct.pack("<I", len(text)) + text)
        for name, side in zip((INPUT_WIDTH, INPUT_HEIGHT), pixels(size) if size else (), strict=False):
            request.inputs.add(name=name, datatype="INT64", shape=[1])
            request.raw_input_contents.append(struct.pack("<q", side))
        return request


async def find_model(address: str, *, wanted: str = "") -> str:
    """The model ``wanted`` of a service; if that is empty, its only model.

    Raises CommandFailed if the service does not answer or lacks the model, or if none is wanted and it has not exactly
    one.
    """
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            if wanted:
                await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=wanted), timeout=SLACK_S)
                return wanted
            index = await stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=SLACK_S)
        except grpc.aio.AioRpcError as error:
            raise _not_found(error, address) from None
    names = sorted({model.name for model in index.models})
    if len(names) != 1:
        raise CommandFailed(f"{address} serves {', '.join(names) or 'no cascade yet'}: choose one with --cascade")
    return str(names[0])


def _not_found(error: grpc.aio.AioRpcError, address: str) -> CommandFailed:
    detail = error.details() or ""
    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
        return CommandFailed(f"--cascade: {detail.removeprefix('model: ')}", code=2)
    if _refused(error):
        return CommandFailed(f"{address}: {detail}")
    return CommandFailed(
        f"no service answers at {address} ({detail}): start it with `cascade up`, or name it with --grpc"
    )


def _failure(error: grpc.aio.AioRpcError, *, expired: bool) -> Exception:
    status, detail = error.code(), error.details() or ""
    said = _refused(error)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED and expired and not said:
        return NoAnswer(detail)
    if status is grpc.StatusCode.UNAVAILABLE and not said:
        return ConnectionLost(detail)
    return RefusedByService(status.name, detail)


def _refused(error: grpc.aio.AioRpcError) -> bool:
    """Whether the service refused the request, rather than the connection failing."""
    return any(key == REFUSAL_KEY for key, _ in error.trailing_metadata() or ())


def _reply(response: Any) -> Reply:
    result = InferResult(response)
    route = result.as_numpy("route").reshape(-1)[0]
    image = np.asarray(result.as_numpy(OUTPUT_IMAGE), dtype=np.uint8)
    return Reply(
        request_id=response.id,
        route=route.decode() if isinstance(route, bytes) else str(route),
        image=image.reshape(image.shape[-3:]),
    )
