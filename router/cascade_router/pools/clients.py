"""Clients of Triton servers: one gRPC channel for each, and the only call that the router makes: make an image."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import grpc
import grpc.aio
from pydantic import ValidationError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cascade_api.names import (
    GRPC_DIRECT,
    INPUT_IMAGE,
    INPUT_MASK,
    INPUT_NEGATIVE_PROMPT,
    INPUT_PROMPT,
    INPUT_SEED,
    OUTPUT_BATCH_TIME,
    OUTPUT_CONFIDENCE,
    OUTPUT_IMAGE,
    OUTPUT_IMAGE_ENCODED,
    OUTPUT_PROMPT_TOKENS,
    PARAMETER_IMAGE_FORMAT,
    PARAMETER_IMAGE_QUALITY,
    PARAMETER_LORA,
    PARAMETER_SIZE,
    PARAMETER_STRENGTH,
)
from cascade_api.plan import PlanVariant
from cascade_api.report import BatchTime
from cascade_api.worker_requests import add_parameters

from .. import tracing
from ..marks import unmarked

MESSAGE_LIMIT: Final = 256 * 1024 * 1024
_OPTIONS: Final = (
    GRPC_DIRECT,
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)
_CLOSE_GRACE_S: Final = 60.0
_LENGTH: Final = struct.Struct("<I")
"""The length before each element of a BYTES tensor."""
_BATCH_TIME: Final = struct.Struct("<2f")
_PROMPT_TOKENS: Final = struct.Struct("<2i")


@dataclass(frozen=True, slots=True)
class GivenPixels:
    """An image that a model changes, as rows of RGB bytes in the size of its images.

    ``mask`` has a byte for each pixel, not 0 where it is drawn anew; None: everywhere. ``strength`` is the part of the
    way to noise from which it is drawn anew.
    """

    strength: float
    width: int
    height: int
    image: bytes = field(repr=False)
    mask: bytes | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.image) + len(self.mask or b"")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The inputs of a model for one image."""

    text: str
    negative: str | None = None
    seed: int | None = None
    given: GivenPixels | None = None


Format = Literal["png", "jpeg", "webp"]
"""Formats in which a model encodes an image."""
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
PNG: Final = "png"
_MAGIC: Final = {PNG: b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}
"""How a file of each format begins."""


@dataclass(frozen=True, slots=True)
class ImageForm:
    """The form in which the client wants an image: its pixels, an encoded file, or both."""

    raw: bool = False
    encoded: str = PNG
    """One of `FORMATS`; empty: no file."""
    quality: int | None = None
    """The quality of JPEG and WebP, 1 to 100; None: the model's choice."""


PNG_FILE: Final = ImageForm()
PIXELS: Final = ImageForm(raw=True, encoded="")


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of a prompt by the model's tokenizer, and how many of them the model reads; the rest is cut."""

    given: int
    read: int

    @property
    def cut(self) -> bool:
        return self.read < self.given


@dataclass(frozen=True, slots=True)
class TritonImage:
    """An image in the form that was requested, and the discriminator's score if that was requested."""

    height: int
    width: int
    pixels: bytes = b""
    """Rows of RGB bytes."""
    element: bytes = b""
    """The file as gRPC transports it, with its length before it, so that megabytes need not be copied."""
    confidence: float | None = None
    batch_time: BatchTime | None = None
    """The size and the time of the batch in which the image was made."""
    prompt_tokens: PromptTokens | None = None
    """None if the worker does not report them."""

    @property
    def encoded(self) -> memoryview:
        """The file."""
        return memoryview(self.element)[_LENGTH.size :]

    def unmarked(self, form: ImageForm) -> TritonImage:
        """The image without the mark that the worker may have put into its file."""
        if not self.element:
            return self
        file = unmarked(self.encoded, form.encoded)
        return replace(self, element=_LENGTH.pack(len(file)) + file)


class PromptRejected(Exception):
    """The model cannot draw this prompt; the message is for the client."""


class ReplicaFailed(Exception):
    """The server failed; another one may succeed."""


class ReplicaTimedOut(Exception):
    """The server did not answer in the time given."""


class TritonClients:
    """Channels to the servers of the plan in force."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[str, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def keep(self, endpoints: Iterable[str]) -> None:
        """Close the channels to servers that left the plan, after calls on them have had time to end."""
        for gone in set(self._channels) - set(endpoints):
            self._stubs.pop(gone, None)
            task = asyncio.ensure_future(self._channels.pop(gone).close(_CLOSE_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for task in self._closing:
            task.cancel()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._stubs.clear()

    async def make(
        self,
        *,
        endpoint: str,
        variant: PlanVariant,
        prompt: Prompt,
        form: ImageForm,
        size: tuple[int, int],
        confidence: bool,
        request_id: str,
        timeout_s: float,
        lora: str = "",
        image: bool = True,
    ) -> TritonImage:
        """Let one server make one image. Cancelling the task cancels the inference.

        Args:
            lora: digest of the adapter to draw with; empty: none.
            image: whether the image itself is wanted; otherwise only what the model says about it is.
            size: width and height, which the answer does not contain if the image is encoded.

        Raises:
            PromptRejected: the model cannot draw the prompt.
            ReplicaTimedOut: ``timeout_s`` passed.
            ReplicaFailed: anything else went wrong.
        """
        request = infer_request(
            variant=variant,
            prompt=prompt,
            form=form if image else None,
            confidence=confidence,
            request_id=request_id,
            size=size,
            lora=lora,
        )
        try:
            response = await self._stub(endpoint).ModelInfer(
                request, timeout=max(timeout_s, 0.001), metadata=tracing.headers()
            )
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from None
        except grpc.aio.UsageError as error:
            raise ReplicaFailed(f"channel to {endpoint} is closed") from error
        return read_image(response, form=form if image else None, size=size, confidence=confidence)

    def _stub(self, endpoint: str) -> Any:
        stub = self._stubs.get(endpoint)
        if stub is None:
            channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
            self._channels[endpoint] = channel
            stub = self._stubs[endpoint] = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub


def infer_request(
    *,
    variant: PlanVariant,
    prompt: Prompt,
    form: ImageForm | None,
    confidence: bool,
    request_id: str,
    size: tuple[int, int],
    lora: str = "",
) -> Any:
    """The ModelInferRequest for one image; the model only computes the outputs that are requested.

    Without a ``form`` these are only those about the image.
    """
    request = service_pb2.ModelInferRequest(model_name=variant.model, id=request_id)
    width, height = size
    named = {PARAMETER_SIZE: f"{width}x{height}"} | ({PARAMETER_LORA: lora} if lora else {})
    add_parameters(request, variant.settings.parameters | named)
    _add_bytes(request, INPUT_PROMPT, prompt.text)
    if prompt.negative is not None:
        _add_bytes(request, INPUT_NEGATIVE_PROMPT, prompt.negative)
    if prompt.seed is not None:
        request.inputs.add(name=INPUT_SEED, datatype="INT64", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<q", prompt.seed))
    given = prompt.given
    if given is not None:
        add_parameters(request, {PARAMETER_STRENGTH: f"{given.strength:.3f}"})
        for name, data, channels in ((INPUT_IMAGE, given.image, 3), (INPUT_MASK, given.mask, 1)):
            if data is not None:
                request.inputs.add(name=name, datatype="UINT8", shape=[1, given.height, given.width, channels])
                request.raw_input_contents.append(data)
    if form is not None and (form.raw or not form.encoded):
        request.outputs.add(name=OUTPUT_IMAGE)
    if form is not None and form.encoded:
        request.outputs.add(name=OUTPUT_IMAGE_ENCODED)
        request.parameters[PARAMETER_IMAGE_FORMAT].string_param = form.encoded
        if form.quality is not None:
            request.parameters[PARAMETER_IMAGE_QUALITY].int64_param = form.quality
    if confidence:
        request.outputs.add(name=OUTPUT_CONFIDENCE)
    request.outputs.add(name=OUTPUT_BATCH_TIME)
    request.outputs.add(name=OUTPUT_PROMPT_TOKENS)
    return request


def read_image(response: Any, *, form: ImageForm | None, size: tuple[int, int], confidence: bool) -> TritonImage:
    """The image in the response to an `infer_request`; raises ReplicaFailed if there is none."""
    raw = {
        tensor.name: (tensor, raw) for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False)
    }
    width, height = size
    pixels = element = b""
    if form is not None and (form.raw or not form.encoded):
        tensor, pixels = raw.get(OUTPUT_IMAGE, (None, b""))
        if tensor is None or tensor.datatype != "UINT8" or len(tensor.shape) != 4 or tensor.shape[3] != 3:
            raise ReplicaFailed("the answer contains no image of shape [1, height, width, 3]")
        _, height, width, _ = tensor.shape
        if len(pixels) != height * width * 3:
            raise ReplicaFailed(f"the image has {len(pixels)} bytes, not {height * width * 3}")
    if form is not None and form.encoded:
        tensor, element = raw.get(OUTPUT_IMAGE_ENCODED, (None, b""))
        length = _LENGTH.pack(max(0, len(element) - _LENGTH.size))
        if tensor is None or tensor.datatype != "BYTES" or not element.startswith(length):
            raise ReplicaFailed("the answer contains no encoded image")
        if not element.startswith(_MAGIC[form.encoded], _LENGTH.size):
            raise ReplicaFailed(f"the encoded image is not a {form.encoded} file")
    score = None
    if confidence:
        tensor, data = raw.get(OUTPUT_CONFIDENCE, (None, b""))
        if tensor is None or tensor.datatype != "FP32" or len(data) != 4:
            raise ReplicaFailed("the answer contains no confidence")
        (score,) = struct.unpack("<f", data)
        if score != score:
            raise ReplicaFailed("the confidence is not a number")
    return TritonImage(
        height,
        width,
        pixels,
        element,
        score,
        _batch_time(*raw.get(OUTPUT_BATCH_TIME, (None, b""))),
        _prompt_tokens(*raw.get(OUTPUT_PROMPT_TOKENS, (None, b""))),
    )


def _batch_time(tensor: Any, data: bytes) -> BatchTime | None:
    """What a worker reports about its batch; None if that is invalid, because the image itself can still be used."""
    if tensor is None or tensor.datatype != "FP32" or len(data) != _BATCH_TIME.size:
        return None
    seconds, images = _BATCH_TIME.unpack(data)
    try:
        return BatchTime(images=images, seconds=seconds)
    except ValidationError:
        return None


def _prompt_tokens(tensor: Any, data: bytes) -> PromptTokens | None:
    """What a worker reports about the prompt; None if that is invalid."""
    if tensor is None or tensor.datatype != "INT32" or len(data) != _PROMPT_TOKENS.size:
        return None
    given, read = _PROMPT_TOKENS.unpack(data)
    return PromptTokens(given, read) if 0 <= read <= given else None


def _add_bytes(request: Any, name: str, text: str) -> None:
    data = text.encode()
    request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(_LENGTH.pack(len(data)) + data)


def _meaning(error: grpc.aio.AioRpcError) -> Exception:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return PromptRejected(details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ReplicaTimedOut(details)
    return ReplicaFailed(f"{code.name}: {details}")
