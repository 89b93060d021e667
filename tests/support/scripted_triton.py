"""A KServe server in this process that answers as a test says, for behaviour that is rare in real replicas."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

Behaviour = Callable[[Any, Any], Awaitable[Any]]
"""From request and context to a response."""


class ScriptedTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with 2×2 images; set ``behaviour`` for anything else."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or answer()
        self.asked: list[str] = []
        """Models asked for, in order."""
        self.cancelled = 0
        self.endpoint = ""
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)

    async def __aenter__(self) -> ScriptedTriton:
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self._server.stop(None)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request.model_name)
        try:
            return await self.behaviour(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


PNG_BEGINS = b"\x89PNG\r\n"


def response(
    *,
    confidence: float | None = 0.9,
    pixels: bytes = bytes(12),
    shape: tuple[int, ...] = (1, 2, 2, 3),
    encoded: bytes = struct.pack("<I", len(PNG_BEGINS)) + PNG_BEGINS,
) -> Any:
    """A ModelInferResponse with an image."""
    made = service_pb2.ModelInferResponse()
    made.outputs.add(name="image", datatype="UINT8", shape=shape)
    made.raw_output_contents.append(pixels)
    made.outputs.add(name="image_encoded", datatype="BYTES", shape=[1, 1])
    made.raw_output_contents.append(encoded)
    if confidence is not None:
        made.outputs.add(name="confidence", datatype="FP32", shape=[1, 1])
        made.raw_output_contents.append(struct.pack("<f", confidence))
    return made


def answer(**changes: Any) -> Behaviour:
    """Answer at once."""

    async def behave(request: Any, context: Any) -> Any:
        return response(**changes)

    return behave


def fail(code: grpc.StatusCode, message: str = "scripted") -> Behaviour:
    """Fail at once."""

    async def behave(request: Any, context: Any) -> Any:
        await context.abort(code, message)

    return behave


def hang() -> Behaviour:
    """Never answer."""

    async def behave(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    return behave
