"""gRPC's server reflection under both of its names: newer clients ask for `v1`, but the library only has `v1alpha`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

from .grpc_guard import GuardedServer

V1ALPHA: Final = str(reflection.SERVICE_NAME)
V1: Final = V1ALPHA.replace("v1alpha", "v1")


def add_reflection(services: Iterable[str], server: GuardedServer) -> None:
    """Add reflection to ``server``; it describes ``services`` and itself."""
    _define_v1()
    servicer = reflection.aio.ReflectionServicer((*services, V1ALPHA, V1))
    # The messages of both versions are the same; only their package's name differs, and that is not sent.
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1ALPHA, V1):
        server.add_registered_method_handlers(name, {"ServerReflectionInfo": method})


def _define_v1() -> None:
    """Add the definition of `v1` to the descriptor pool, so that reflection can describe it like any other service."""
    definition = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(definition)
    renamed = text_format.MessageToString(definition).replace("v1alpha", "v1")
    defined = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(defined.SerializeToString())
