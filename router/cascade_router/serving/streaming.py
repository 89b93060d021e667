"""ModelStreamInfer: many requests over one stream. Each gets a final answer, and before that a preview if it escalates.

The requests of a stream are served at the same time, up to a limit above which no more are read. Answers are sent in
the order in which they are ready, and carry the id of their request. A failed request gets an error message, and the
stream goes on. When the client goes away, all its requests are withdrawn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from tritonclient.grpc import service_pb2

from ..deliveries import Delivery
from ..requests import MadeImage, Receipt, RequestRefused, made_images, new_id
from ..service import ImageService, RouterDefect
from ..tracing import Headers
from . import kserve
from .statuses import GRPC

log = structlog.get_logger(__name__)

STREAM_LIMIT: Final = 64
"""The most requests of one stream that are under way, or whose answers the client has not taken yet."""
FINAL_RESPONSE: Final = "triton_final_response"
IMAGE_INDEX: Final = "image_index"
"""The parameter of a preview that says which of the message's images it shows."""
_NO_IMAGES: Final = kserve.ResponseForm((), ())


@dataclass(frozen=True, slots=True)
class _Ready:
    """A message to be sent for one request: its images, a preview of one, or why there are none."""

    message: Any
    what: Delivery | MadeImage | RequestRefused | RouterDefect
    form: kserve.ResponseForm = _NO_IMAGES

    @property
    def final(self) -> bool:
        return not isinstance(self.what, MadeImage)


async def responses(
    service: ImageService, messages: AsyncIterator[Any], *, tenant: str, trace: Headers = ()
) -> AsyncIterator[Any]:
    """The ModelStreamInferResponses for a stream of ModelInferRequests; ends after the last answer."""
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
            with item.what if isinstance(item.what, Delivery) else contextlib.nullcontext():
                yield _response(item)
            if item.final:
                room.release()
        await reader
    finally:
        for task in (reader, *under_way):
            task.cancel()
        while not ready.empty():
            left = ready.get_nowait()
            if left is not None and isinstance(left.what, Delivery):
                left.what.failed()


async def _serve(
    service: ImageService, message: Any, tenant: str, trace: Headers, ready: asyncio.Queue[_Ready | None]
) -> None:
    """Serve one request of a stream, and put its end into ``ready`` unless it is cancelled."""
    receipt = Receipt(at=service.clock(), tenant=tenant, trace=trace)
    try:
        requests, form = kserve.read_requests(
            message, settings=service.settings, receipt=receipt, default_outputs=kserve.STREAM_OUTPUTS
        )
    except RequestRefused as refused:
        service.accounts.invalid(refused)
        ready.put_nowait(_Ready(message, refused))
        return

    def show(light: MadeImage) -> None:
        ready.put_nowait(_Ready(message, light, form.of_one))

    try:
        delivery = await service.generate(requests, protocol="grpc-stream", preview=show, partial=form.partial)
    except (RequestRefused, RouterDefect) as failure:
        ready.put_nowait(_Ready(message, failure))
    except Exception:
        request_id = new_id()
        log.exception("request failed", request=request_id)
        ready.put_nowait(_Ready(message, RouterDefect(request_id)))
    else:
        ready.put_nowait(_Ready(message, delivery, form))


def _response(item: _Ready) -> Any:
    """The message for the client; an image that is too late becomes a refusal."""
    match item.what:
        case Delivery() as delivery:
            try:
                response = delivery.pack(lambda answers: _images(item, answers))
            except RequestRefused as late:
                response = _failure(item, late)
        case MadeImage() as preview:
            response = _images(item, [preview])
            response.infer_response.parameters[IMAGE_INDEX].int64_param = preview.index
        case failure:
            response = _failure(item, failure)
    response.infer_response.parameters[FINAL_RESPONSE].bool_param = item.final
    return response


def _images(item: _Ready, answers: Sequence[MadeImage | RequestRefused]) -> Any:
    return service_pb2.ModelStreamInferResponse(
        infer_response=kserve.write_response(
            answers,
            item.form,
            request_id=item.message.id or made_images(answers)[0].request_id,
            model=item.message.model_name,
            stage=kserve.FINAL if item.final else kserve.PREVIEW,
        )
    )


def _failure(item: _Ready, failure: RequestRefused | RouterDefect) -> Any:
    response = service_pb2.ModelStreamInferResponse(error_message=_error_text(failure))
    response.infer_response.id = item.message.id
    response.infer_response.model_name = item.message.model_name
    if isinstance(failure, RequestRefused):
        response.infer_response.parameters["cascade_reason"].string_param = str(failure.reason)
    return response


def _error_text(error: RequestRefused | RouterDefect) -> str:
    """A failure in the form in which Triton's clients print that of a single call: in a stream, answers have no
    status.
    """
    code = GRPC[error.reason] if isinstance(error, RequestRefused) else grpc.StatusCode.INTERNAL
    return f"[StatusCode.{code.name}] {error}"
