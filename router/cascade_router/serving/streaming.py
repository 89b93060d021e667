"""ModelStreamInfer: many requests over one stream, each answered with a preview where it escalates, then for good.

A stream serves its requests side by side, up to a limit above which it reads no more; answers come as they are ready,
told apart by the request id. What fails is told in the stream, which goes on. When the client goes away, all is
withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from tritonclient.grpc import service_pb2

from ..requests import Answer, Refused, new_id
from ..service import Failed, Service
from ..tracing import Headers
from . import kserve
from .png import encode_png
from .statuses import GRPC

log = structlog.get_logger(__name__)

STREAM_LIMIT: Final = 64
"""Requests of one stream that are under way or whose answers the client has not taken yet."""
FINAL_RESPONSE: Final = "triton_final_response"


@dataclass(frozen=True, slots=True)
class _Ready:
    """What is to be sent for one request: images, or why there are none."""

    message: Any
    final: bool
    form: kserve.Form | None = None
    answers: tuple[Answer, ...] = ()
    error: Refused | Failed | None = None


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
            yield await _response(item)
            if item.final:
                room.release()
        await reader
    finally:
        for task in (reader, *under_way):
            task.cancel()


async def _serve(
    service: Service, message: Any, tenant: str, trace: Headers, ready: asyncio.Queue[_Ready | None]
) -> None:
    """One request of a stream; its end is always put into ``ready``, unless it is cancelled."""
    try:
        requests, form = kserve.read_requests(
            message,
            settings=service.settings,
            tenant=tenant,
            remaining_s=None,
            trace=trace,
            default_outputs=kserve.STREAM_OUTPUTS,
        )
    except Refused as refused:
        service.reject(refused)
        ready.put_nowait(_Ready(message, final=True, error=refused))
        return
    try:
        answers = await service.generate_all(
            requests,
            protocol="grpc-stream",
            preview=lambda light: ready.put_nowait(_Ready(message, final=False, form=form, answers=(light,))),
        )
    except (Refused, Failed) as failure:
        ready.put_nowait(_Ready(message, final=True, error=failure))
    except Exception:
        request_id = new_id()
        log.exception("request failed", request=request_id)
        ready.put_nowait(_Ready(message, final=True, error=Failed(request_id)))
    else:
        ready.put_nowait(_Ready(message, final=True, form=form, answers=tuple(answers)))


async def _response(item: _Ready) -> Any:
    if item.form is None:
        response = service_pb2.ModelStreamInferResponse(error_message=_said(item.error))
        response.infer_response.id = item.message.id
        response.infer_response.model_name = item.message.model_name
        if isinstance(item.error, Refused):
            response.infer_response.parameters["cascade_reason"].string_param = str(item.error.reason)
    else:
        pngs = [await encode_png(answer.image) for answer in item.answers] if kserve.wants_png(item.form) else []
        response = service_pb2.ModelStreamInferResponse(
            infer_response=kserve.write_response(
                item.answers,
                item.form,
                request_id=item.message.id or item.answers[0].request_id,
                model=item.message.model_name,
                pngs=pngs,
                stage=kserve.FINAL if item.final else kserve.PREVIEW,
            )
        )
    response.infer_response.parameters[FINAL_RESPONSE].bool_param = item.final
    return response


def _said(error: Refused | Failed | None) -> str:
    """A failure as Triton clients print that of a single call: a stream has no status per answer."""
    code = GRPC[error.reason] if isinstance(error, Refused) else grpc.StatusCode.INTERNAL
    return f"[StatusCode.{code.name}] {error}"
