"""ModelStreamInfer: many requests over one stream, each answered with a preview where it escalates, then for good.

A stream serves its requests side by side, up to a limit above which it reads no more; answers come as they are ready,
told apart by the request id. What fails is told in the stream, which goes on. When the client goes away, all is
withdrawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from tritonclient.grpc import service_pb2

from ..deliveries import Delivery
from ..requests import Answer, Refused, new_id
from ..service import Failed, Service
from ..tracing import Headers
from . import kserve
from .statuses import GRPC

log = structlog.get_logger(__name__)

STREAM_LIMIT: Final = 64
"""Requests of one stream that are under way or whose answers the client has not taken yet."""
FINAL_RESPONSE: Final = "triton_final_response"


@dataclass(frozen=True, slots=True)
class _Ready:
    """What is to be sent for one request: images, a preview of one, or why there are none."""

    message: Any
    form: kserve.Form | None = None
    delivery: Delivery | None = None
    preview: Answer | None = None
    error: Refused | Failed | None = None

    @property
    def final(self) -> bool:
        return self.preview is None


async def responses(
    service: Service, messages: AsyncIterator[Any], *, tenant: str, trace: Headers = ()
) -> AsyncIterator[Any]:
    """The ModelStreamInferResponses to a stream of ModelInferRequests; ends after the last answer."""
    ready: asyncio.Queue[_Ready | None] = asyncio.Queue()
    room = asyncio.Semaphore(STREAM_LIMIT)
    under_way: set[asyncio.Task[None]] = set()

    async def read() -> None:
        try:
            async for message in messages:
                await room.acquire()
                task = asyncio.ensure_future(_serve(service, message, tenant, trace, ready))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)
        finally:
            ready.put_nowait(None)

    reader = asyncio.ensure_future(read())
    try:
        while (item := await ready.get()) is not None:
            with item.delivery or contextlib.nullcontext():
                yield _response(item)
            if item.final:
                room.release()
        await reader
    finally:
        for task in (reader, *under_way):
            task.cancel()
        while not ready.empty():
            left = ready.get_nowait()
            if left is not None and left.delivery is not None:
                left.delivery.failed()


async def _serve(
    service: Service, message: Any, tenant: str, trace: Headers, ready: asyncio.Queue[_Ready | None]
) -> None:
    """One request of a stream; its end is always put into ``ready``, unless it is cancelled."""
    received = time.monotonic()
    try:
        requests, form = kserve.read_requests(
            message,
            settings=service.settings,
            tenant=tenant,
            received=received,
            remaining_s=None,
            trace=trace,
            default_outputs=kserve.STREAM_OUTPUTS,
        )
    except Refused as refused:
        service.reject(refused)
        ready.put_nowait(_Ready(message, error=refused))
        return

    def show(light: Answer) -> None:
        ready.put_nowait(_Ready(message, form, preview=light))

    try:
        delivery = await service.generate(
            requests, protocol="grpc-stream", preview=show if len(requests) == 1 else None
        )
    except (Refused, Failed) as failure:
        ready.put_nowait(_Ready(message, error=failure))
    except Exception:
        request_id = new_id()
        log.exception("request failed", request=request_id)
        ready.put_nowait(_Ready(message, error=Failed(request_id)))
    else:
        ready.put_nowait(_Ready(message, form, delivery))


def _response(item: _Ready) -> Any:
    """The message for a client; an image that comes too late becomes a refusal."""
    error = item.error
    if item.delivery is not None:
        try:
            item.delivery.check()
        except Refused as late:
            item.delivery.failed(late)
            error = late
    if item.form is None or error is not None:
        response = service_pb2.ModelStreamInferResponse(error_message=_said(error))
        response.infer_response.id = item.message.id
        response.infer_response.model_name = item.message.model_name
        if isinstance(error, Refused):
            response.infer_response.parameters["cascade_reason"].string_param = str(error.reason)
    else:
        answers = [item.preview] if item.preview else item.delivery.answers if item.delivery else []
        response = service_pb2.ModelStreamInferResponse(
            infer_response=kserve.write_response(
                answers,
                item.form,
                request_id=item.message.id or answers[0].request_id,
                model=item.message.model_name,
                stage=kserve.FINAL if item.final else kserve.PREVIEW,
            )
        )
        if item.delivery is not None:
            item.delivery.packed()
    response.infer_response.parameters[FINAL_RESPONSE].bool_param = item.final
    return response


def _said(error: Refused | Failed | None) -> str:
    """A failure as Triton clients print that of a single call: a stream has no status per answer."""
    code = GRPC[error.reason] if isinstance(error, Refused) else grpc.StatusCode.INTERNAL
    return f"[StatusCode.{code.name}] {error}"
