"""The KServe v2 gRPC service. Every method of the protocol either works or says why it does not."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from tritonclient.grpc import service_pb2

from .. import tracing
from ..requests import Receipt, RequestRefused, new_id, printable_id
from ..service import ImageService, RouterDefect
from . import describe, kserve, streaming, tls
from .statuses import GRPC

log = structlog.get_logger(__name__)

_SHARED_MEMORY: Final = "shared memory is not supported; send tensors in the message"

Context = Any
"""grpc.aio.ServicerContext, whose type parameters differ from call to call."""


class InferenceService:
    """`inference.GRPCInferenceService`; models are cascades."""

    def __init__(self, service: ImageService) -> None:
        self._service = service

    async def ServerLive(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self._service.why_not_ready() is None)

    async def ModelReady(self, request: Any, context: Context) -> Any:  # noqa: N802
        try:
            runtime = self._service.plans.find(request.name)
        except RequestRefused:
            return service_pb2.ModelReadyResponse(ready=False)
        known_version = request.version in ("", kserve.VERSION)
        return service_pb2.ModelReadyResponse(ready=known_version and runtime.state.why_not_ready() is None)

    async def ServerMetadata(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(
            name=kserve.SERVER_NAME, version=version("diffusion-cascade"), extensions=[]
        )

    async def ModelMetadata(self, request: Any, context: Context) -> Any:  # noqa: N802
        return describe.model_metadata(await self._find(request, context), model=request.name)

    async def ModelConfig(self, request: Any, context: Context) -> Any:  # noqa: N802
        return describe.model_config(await self._find(request, context), model=request.name)

    async def ModelStatistics(self, request: Any, context: Context) -> Any:  # noqa: N802
        if request.name:
            found = {request.name: await self._find(request, context)}
        else:
            await self.known(context)
            found = self._service.plans.by_name
        statistics = [describe.model_statistics(runtime, model=name) for name, runtime in found.items()]
        return service_pb2.ModelStatisticsResponse(model_stats=statistics)

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:  # noqa: N802
        await self.known(context)
        response = service_pb2.RepositoryIndexResponse()
        for name, runtime in self._service.plans.by_name.items():
            problem = runtime.state.why_not_ready()
            if problem is None or not request.ready:
                state = "UNAVAILABLE" if problem else "READY"
                response.models.add(name=name, version=kserve.VERSION, state=state, reason=problem or "")
        return response

    async def ModelInfer(self, request: Any, context: Context) -> Any:  # noqa: N802
        try:
            return await self._infer(request, context)
        except RequestRefused as refused:
            await _abort(context, refused, request_id=request.id)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except RouterDefect as failed:
            await context.abort(grpc.StatusCode.INTERNAL, str(failed))
        except Exception:
            request_id = new_id()
            log.exception("request failed", request=request_id)
            await context.abort(grpc.StatusCode.INTERNAL, str(RouterDefect(request_id)))

    async def _infer(self, message: Any, context: Context) -> Any:
        try:
            receipt = Receipt(
                at=self._service.clock(),
                call_s=context.time_remaining(),
                tenant=self._tenant(context),
                trace=_trace(context),
            )
            requests, form = kserve.read_requests(message, settings=self._service.settings, receipt=receipt)
        except RequestRefused as refused:
            self._service.accounts.invalid(refused)
            raise
        delivery = await self._service.generate(requests, protocol="grpc", partial=form.partial)
        request_id = message.id or requests[0].id
        response = delivery.pack(
            lambda answers: kserve.write_response(answers, form, request_id=request_id, model=message.model_name)
        )
        # gRPC calls this when the transport has the whole answer, or when the client is gone.
        context.add_done_callback(lambda call: delivery.failed() if call.cancelled() else delivery.sent())
        return response

    def _tenant(self, context: Context) -> str:
        """The tenant who calls. Raises RequestRefused."""
        if self._service.tenants.open:
            return ""
        keys = (str(value) for name, value in context.invocation_metadata() or () if name == "authorization")
        names = tls.certificate_names(context.auth_context())
        return self._service.tenants.identify(authorization=next(keys, None), certificate_names=names)

    async def known(self, context: Context) -> None:
        """Abort the call if its caller has no access."""
        try:
            self._tenant(context)
        except RequestRefused as refused:
            await _abort(context, refused, request_id="")

    async def _find(self, request: Any, context: Context) -> Any:
        await self.known(context)
        try:
            return self._service.plans.find(request.name)
        except RequestRefused as refused:
            await _abort(context, refused, request_id="")

    async def ModelStreamInfer(self, request_iterator: Any, context: Context) -> Any:  # noqa: N802
        try:
            tenant = self._tenant(context)
        except RequestRefused as refused:
            self._service.accounts.invalid(refused)
            await _abort(context, refused, request_id="")
        trace = _trace(context)
        async for response in streaming.responses(self._service, request_iterator, tenant=tenant, trace=trace):
            yield response

    async def RepositoryModelLoad(self, request: Any, context: Context) -> None:  # noqa: N802
        await _unimplemented(context, kserve.MODEL_CONTROL)

    async def RepositoryModelUnload(self, request: Any, context: Context) -> None:  # noqa: N802
        await _unimplemented(context, kserve.MODEL_CONTROL)

    async def SystemSharedMemoryStatus(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.SystemSharedMemoryStatusResponse()

    async def SystemSharedMemoryRegister(self, request: Any, context: Context) -> None:  # noqa: N802
        await _unimplemented(context, _SHARED_MEMORY)

    async def SystemSharedMemoryUnregister(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(self, request: Any, context: Context) -> None:  # noqa: N802
        await _unimplemented(context, _SHARED_MEMORY)

    async def CudaSharedMemoryUnregister(self, request: Any, context: Context) -> Any:  # noqa: N802
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    async def TraceSetting(self, request: Any, context: Context) -> None:  # noqa: N802
        await _unimplemented(context, "tracing is set up in the router's settings")

    async def LogSettings(self, request: Any, context: Context) -> None:  # noqa: N802
        await _unimplemented(context, "logging is set up in the router's settings")


def _trace(context: Context) -> tracing.Headers:
    return tracing.context_of(context.invocation_metadata() or ()) if tracing.on() else ()


async def _abort(context: Context, refused: RequestRefused, *, request_id: str) -> NoReturn:
    trailing = [("cascade-reason", str(refused.reason))]
    if request_id:
        trailing.append(("cascade-request-id", printable_id(request_id)))
    if refused.retry_after_s is not None:
        trailing.append(("grpc-retry-pushback-ms", str(int(refused.retry_after_s * 1000))))
    await context.abort(GRPC[refused.reason], refused.message, trailing_metadata=tuple(trailing))
    raise AssertionError("abort always raises")


async def _unimplemented(context: Context, why: str) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, why)
