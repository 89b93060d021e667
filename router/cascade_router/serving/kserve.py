"""Converts KServe v2 messages to requests, and answers to messages: what clients may send, and what they receive."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tritonclient.grpc import service_pb2

from cascade_api.names import (
    INPUT_HEIGHT,
    INPUT_IMAGE,
    INPUT_MASK,
    INPUT_NEGATIVE_PROMPT,
    INPUT_PROMPT,
    INPUT_SEED,
    INPUT_WIDTH,
    OUTPUT_CONFIDENCE,
    OUTPUT_IMAGE,
    OUTPUT_IMAGE_ENCODED,
)
from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from ..pools.clients import FORMATS, Format, ImageForm, Prompt
from ..requests import (
    DEFAULT_STRENGTH,
    MAX_IMAGES,
    STRENGTH,
    Edit,
    GenerateRequest,
    MadeImage,
    Receipt,
    RequestRefused,
    check_seed,
    decode_prompt,
    invalid,
    made_images,
    nth_id,
    printable_id,
)
from .parameters import REFUSED_OF_INPUTS, REFUSED_OF_OUTPUTS, read_parameters, refuse

VERSION: Final = "1"
SERVER_NAME: Final = "diffusion-cascade"
MODEL_CONTROL: Final = "models are loaded by the operator, not by clients; change the DiffusionCascade instead"
INPUTS: Final = {
    INPUT_PROMPT: "BYTES",
    INPUT_NEGATIVE_PROMPT: "BYTES",
    INPUT_SEED: "INT64",
    INPUT_WIDTH: "INT64",
    INPUT_HEIGHT: "INT64",
}
GIVEN: Final = {INPUT_IMAGE: "BYTES", INPUT_MASK: "BYTES"}
"""Inputs of cascades that edit images: files, as clients have them, in any size."""
ALL_INPUTS: Final = {**INPUTS, **GIVEN}
OUTPUT_VARIANT: Final = "variant"
OUTPUT_ROUTE: Final = "route"
OUTPUT_HARDNESS: Final = "hardness"
OUTPUT_ACCELERATOR_SECONDS: Final = "accelerator_seconds"
OUTPUT_STAGE: Final = "stage"
FILES: Final[Mapping[str, Format]] = {f"image_{form}": form for form in FORMATS}
"""Outputs that are a file of one format; `OUTPUT_IMAGE_ENCODED` is a file of the format that a parameter names."""
OUTPUT_PROMPT_CUT: Final = "prompt_cut"
OUTPUT_LORA: Final = "lora"
OUTPUT_ERROR: Final = "error"
PREVIEW: Final = "preview"
FINAL: Final = "final"
OUTPUTS: Final = {
    OUTPUT_IMAGE: "UINT8",
    OUTPUT_IMAGE_ENCODED: "BYTES",
    OUTPUT_VARIANT: "BYTES",
    OUTPUT_ROUTE: "BYTES",
    OUTPUT_CONFIDENCE: "FP32",
    OUTPUT_HARDNESS: "FP32",
    OUTPUT_ACCELERATOR_SECONDS: "FP32",
    OUTPUT_STAGE: "BYTES",
    OUTPUT_PROMPT_CUT: "BOOL",
    OUTPUT_LORA: "BYTES",
    OUTPUT_ERROR: "BYTES",
    **dict.fromkeys(FILES, "BYTES"),
}
DESCRIBED_OUTPUTS: Final = tuple(name for name in OUTPUTS if name not in FILES)
"""The outputs in a model's metadata. PyTriton's client asks for all of them, and an answer has one file."""
BINARY_ONLY: Final = (OUTPUT_IMAGE_ENCODED, *FILES)
"""Outputs that are bytes and no text."""
_ONLY_NAMED: Final = (*BINARY_ONLY, OUTPUT_PROMPT_CUT, OUTPUT_LORA, OUTPUT_ERROR)
STREAM_OUTPUTS: Final = tuple(name for name in OUTPUTS if name not in _ONLY_NAMED)
"""The outputs of a stream whose client does not choose; answers to single calls leave out the stage."""
DEFAULT_OUTPUTS: Final = tuple(name for name in STREAM_OUTPUTS if name != OUTPUT_STAGE)
_CONTENTS: Final = {"BYTES": "bytes_contents", "INT64": "int64_contents"}


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """The form of the answer: which outputs it has, and the batch dimensions of each (none, [N] or [N, 1])."""

    outputs: tuple[str, ...]
    batch: tuple[int, ...]

    @property
    def partial(self) -> bool:
        """Whether the client reads which images were not made; otherwise it gets all of them or none."""
        return OUTPUT_ERROR in self.outputs

    @property
    def of_one(self) -> ResponseForm:
        """The same outputs for one of the images."""
        return replace(self, batch=(1, *self.batch[1:]))


def read_requests(
    message: Any,
    *,
    settings: RouterSettings,
    receipt: Receipt,
    default_outputs: Sequence[str] = DEFAULT_OUTPUTS,
) -> tuple[tuple[GenerateRequest, ...], ResponseForm]:
    """A ModelInferRequest as one request per prompt.

    Raises:
        RequestRefused: INVALID, which names the field, or UNKNOWN_MODEL for a version that does not exist.
    """
    request_id = printable_id(message.id)
    if message.model_version not in ("", VERSION):
        raise RequestRefused(
            Refusal.UNKNOWN_MODEL,
            f"model_version: {message.model_version[:40]!r} is not served; leave it out or use {VERSION!r}",
            field="model_version",
        )
    values, batch = _read_inputs(message, limit=settings.prompt_limit)
    options = read_parameters(message.parameters, settings=settings)
    outputs = _read_outputs(message.outputs) or tuple(default_outputs)
    form = ImageForm(
        raw=OUTPUT_IMAGE in outputs, encoded=_file_format(outputs, options.image_format), quality=options.image_quality
    )
    nothing = [None] * batch[0]
    size = _size(values)
    edits = _edits(values, options.strength)
    requests = tuple(
        GenerateRequest(
            id=nth_id(request_id, index),
            index=index,
            model=message.model_name,
            prompt=Prompt(prompt, negative, seed),
            receipt=receipt,
            form=form,
            within_s=options.within_s,
            idempotency_key=options.idempotency_key,
            band=options.band,
            wish=replace(options.wish, edits=edit is not None),
            size=size,
            edit=edit,
        )
        for index, (prompt, negative, seed, edit) in enumerate(
            zip(
                values[INPUT_PROMPT],
                values.get(INPUT_NEGATIVE_PROMPT, nothing),
                values.get(INPUT_SEED, nothing),
                edits or nothing,
                strict=True,
            )
        )
    )
    return requests, ResponseForm(outputs, batch)


def _edits(values: Mapping[str, list[Any]], strength: float | None) -> list[Edit]:
    """What each image is drawn from; empty if nothing is given."""
    for name, value in ((INPUT_MASK, values.get(INPUT_MASK)), (STRENGTH, strength)):
        if value is not None and INPUT_IMAGE not in values:
            raise invalid(name, f"belongs to the input {INPUT_IMAGE}, which is missing; send both, or leave it out")
    images = values.get(INPUT_IMAGE, [])
    masks = values.get(INPUT_MASK, [None] * len(images))
    part = DEFAULT_STRENGTH if strength is None else strength
    return [Edit(image, mask, part) for image, mask in zip(images, masks, strict=True)]


def write_response(
    answers: Sequence[MadeImage | RequestRefused],
    form: ResponseForm,
    *,
    request_id: str,
    model: str,
    stage: str = FINAL,
) -> Any:
    """The ModelInferResponse. An image that was not made is black, and its file is empty."""
    response = service_pb2.ModelInferResponse(model_name=model, model_version=VERSION, id=request_id)
    image = made_images(answers)[0].image
    for name in form.outputs:
        shape = list(form.batch)
        if name == OUTPUT_IMAGE:
            # A single image that was requested without a batch dimension is returned without one.
            shape = [*(() if form.batch == (1,) else form.batch[:1]), image.height, image.width, 3]
        response.outputs.add(name=name, datatype=OUTPUTS[name], shape=shape)
        response.raw_output_contents.append(
            b"".join(
                _missing(name, answer, pixels=image.height * image.width)
                if isinstance(answer, RequestRefused)
                else _packed(name, answer, stage)
                for answer in answers
            )
        )
    return response


def _missing(name: str, refused: RequestRefused, *, pixels: int) -> bytes:
    """The element of an output for an image that was not made."""
    if name == OUTPUT_ERROR:
        return _pack_bytes(f"{refused.reason}: {refused.message}".encode())
    if name == OUTPUT_IMAGE:
        return bytes(3 * pixels)
    return {"BYTES": _pack_bytes(b""), "FP32": struct.pack("<f", math.nan), "BOOL": b"\0"}[OUTPUTS[name]]


def _packed(name: str, answer: MadeImage, stage: str) -> bytes:
    """The element of an output for one answer, in the binary form of KServe v2."""
    if name == OUTPUT_ERROR:
        return _pack_bytes(b"")
    if name == OUTPUT_IMAGE:
        return answer.image.pixels
    if name in BINARY_ONLY:
        return answer.image.element
    if name == OUTPUT_VARIANT:
        return _pack_bytes(answer.variant.encode())
    if name == OUTPUT_LORA:
        return _pack_bytes(answer.lora.encode())
    if name == OUTPUT_ROUTE:
        return _pack_bytes(str(answer.route).encode())
    if name == OUTPUT_STAGE:
        return _pack_bytes(stage.encode())
    if name == OUTPUT_PROMPT_CUT:
        return struct.pack("?", answer.image.prompt_tokens is not None and answer.image.prompt_tokens.cut)
    if name == OUTPUT_HARDNESS:
        return struct.pack("<f", answer.hardness)
    if name == OUTPUT_ACCELERATOR_SECONDS:
        return struct.pack("<f", answer.accelerator_s)
    return struct.pack("<f", math.nan if answer.confidence is None else answer.confidence)


def _read_inputs(message: Any, *, limit: int) -> tuple[dict[str, list[Any]], tuple[int, ...]]:
    """The values of each input, one for each image, and the shape of the prompts."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise invalid("raw_input_contents", f"has {len(raw)} entries for {len(message.inputs)} inputs")
    values: dict[str, list[Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for index, tensor in enumerate(message.inputs):
        name = tensor.name
        if name not in ALL_INPUTS:
            raise invalid("inputs", f"unknown input {name[:80]!r}; the inputs are {', '.join(ALL_INPUTS)}")
        if name in values:
            raise invalid(name, "was sent twice")
        if tensor.datatype != ALL_INPUTS[name]:
            raise invalid(name, f"has datatype {tensor.datatype[:20]!r}; it must be {ALL_INPUTS[name]}")
        shapes[name] = _read_shape(name, list(tensor.shape))
        refuse(name, tensor.parameters, REFUSED_OF_INPUTS)
        count = shapes[name][0]
        elements = _unpack(name, raw[index], count) if raw else _contents(name, tensor.contents, count)
        values[name] = [_checked(name, element, limit=limit) for element in elements]
    if INPUT_PROMPT not in values:
        raise invalid(INPUT_PROMPT, "is missing; send one BYTES input `prompt` of shape [N] or [N, 1]")
    batch = shapes[INPUT_PROMPT]
    for name, shape in shapes.items():
        if shape[0] != batch[0]:
            raise invalid(name, f"has shape {list(shape)}; send one value per prompt, {batch[0]} in all")
    return values, batch


def _size(values: Mapping[str, Sequence[int]]) -> str:
    """The size that the inputs ``width`` and ``height`` name, the same for all images; empty if they are left out."""
    sides = {}
    for name, other in ((INPUT_WIDTH, INPUT_HEIGHT), (INPUT_HEIGHT, INPUT_WIDTH)):
        if name not in values:
            if other in values:
                raise invalid(name, f"is missing; send both {INPUT_WIDTH} and {INPUT_HEIGHT}, or neither")
            return ""
        if len(set(values[name])) > 1:
            raise invalid(name, "differs between prompts; images of one call have one size, so send one call for each")
        sides[name] = values[name][0]
    return f"{sides[INPUT_WIDTH]}x{sides[INPUT_HEIGHT]}"


def _read_shape(name: str, shape: list[int]) -> tuple[int, ...]:
    if len(shape) not in (1, 2) or not 1 <= shape[0] <= MAX_IMAGES or shape[1:] not in ([], [1]):
        raise invalid(name, f"has shape {shape[:8]}; send [N] or [N, 1] with N from 1 to {MAX_IMAGES}")
    return tuple(shape)


def _checked(name: str, value: Any, *, limit: int) -> Any:
    if name == INPUT_SEED:
        return check_seed(value)
    if name in (INPUT_WIDTH, INPUT_HEIGHT, *GIVEN):
        return value
    if name == INPUT_PROMPT or value:
        return decode_prompt(value, limit=limit, field=name)
    return None  # an empty negative prompt counts as none


def _unpack(name: str, data: bytes, count: int) -> list[Any]:
    """The elements of raw contents (KServe v2: little-endian, with a length of 4 bytes before each of BYTES)."""
    if ALL_INPUTS[name] == "INT64":
        if len(data) != 8 * count:
            raise invalid(name, f"has {len(data)} bytes; {count} INT64 have {8 * count}")
        return list(struct.unpack(f"<{count}q", data))
    elements: list[Any] = []
    at = 0
    while at < len(data) and len(elements) < count:
        if len(data) - at < 4:
            break
        (length,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data) or len(elements) != count:
        raise invalid(
            name,
            f"must hold exactly {count} BYTES element{'s' * (count > 1)}: the length in 4 bytes, little-endian, then"
            " the bytes",
        )
    return elements


def _contents(name: str, contents: Any, count: int) -> list[Any]:
    field = _CONTENTS[ALL_INPUTS[name]]
    values = getattr(contents, field)
    if len(values) != count:
        raise invalid(name, f"holds {len(values)} values in {field}; send exactly {count}")
    return list(values)


def _read_outputs(requested: Any) -> tuple[str, ...]:
    for output in requested:
        if output.name not in OUTPUTS:
            raise invalid("outputs", f"unknown output {output.name[:80]!r}; the outputs are {', '.join(OUTPUTS)}")
        refuse(output.name, output.parameters, REFUSED_OF_OUTPUTS)
    return tuple(dict.fromkeys(output.name for output in requested))


def _file_format(outputs: Sequence[str], parameter: str) -> str:
    """The format of the file among the outputs; empty if there is none. Raises RequestRefused for several."""
    formats = {FILES.get(name, parameter): name for name in outputs if name in BINARY_ONLY}
    if len(formats) > 1:
        raise invalid("outputs", f"{' and '.join(formats.values())} cannot be had together: an answer has one file")
    return next(iter(formats), "")


def _pack_bytes(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data
