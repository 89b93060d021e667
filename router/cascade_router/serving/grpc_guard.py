"""Registers gRPC services so that a message that cannot be parsed is answered with INVALID_ARGUMENT.

gRPC by itself would answer UNKNOWN and log a traceback, before the service could check who calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

Check = Callable[[Any], Awaitable[None]]
"""Takes the context of a call, and aborts the call if its caller has no access."""
_MALFORMED: Final = object()
"""Takes the place of a message that cannot be parsed."""
_WHY: Final = "the message is not a protobuf message of this method's request type"


class GuardedServer:
    """Takes the server's place in the generated `add_…Servicer_to_server` functions, which register a service.

    Args:
        check: called before a malformed message is refused, so that callers without access get no other answer here
            than elsewhere.
    """

    def __init__(self, server: grpc.aio.Server, *, check: Check) -> None:
        self._server = server
        self._check = check

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Do nothing: generated code also passes the same methods to `add_registered_method_handlers`."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Register the methods of a service by their names."""
        guarded = {name: self._guarded(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))
        self._server.add_registered_method_handlers(service, guarded)

    def _guarded(self, handler: Any) -> Any:
        codecs = {
            "request_deserializer": _tolerant(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream_stream(handler.stream_stream), **codecs)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._unary(handler.unary_stream), **codecs)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary), **codecs)
        raise NotImplementedError("methods that take a stream and answer once are not supported")

    def _unary(self, serve: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def guarded(request: Any, context: Any) -> Any:
            if request is _MALFORMED:
                await self._refuse(context)
            return await serve(request, context)

        return guarded

    def _stream_stream(self, serve: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def parsed(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                if request is _MALFORMED:
                    await self._refuse(context)
                yield request

        async def guarded(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async with contextlib.aclosing(serve(parsed(requests, context), context)) as responses:
                async for response in responses:
                    yield response

        return guarded

    async def _refuse(self, context: Any) -> None:
        await self._check(context)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _WHY)


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read
