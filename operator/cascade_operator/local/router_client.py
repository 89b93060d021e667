"""Whether the router of a local run answers, and which cascades it serves."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cascade_api.names import GRPC_DIRECT

CALL_TIMEOUT_S: Final = 2.0
_OPTIONS: Final = (
    GRPC_DIRECT,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)


class RouterClient:
    """A router's gRPC endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def alive(self) -> bool:
        """Whether it answers at all."""
        answer = await self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest())
        return answer is not None and bool(answer.live)

    async def serves(self, cascade: str) -> bool:
        """Whether it says that it serves a cascade."""
        answer = await self._call(self._stub.ModelReady, service_pb2.ModelReadyRequest(name=cascade))
        return answer is not None and bool(answer.ready)

    async def _call(self, method: Any, request: Any) -> Any:
        """The answer; None where there is none."""
        try:
            return await method(request, timeout=CALL_TIMEOUT_S)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            # The last two: the connection was closed meanwhile.
            return None
