"""KServe v2 messages to requests and back: what a client may send, and the tensors that it gets."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tritonclient.grpc import service_pb2

from cascade_api.names import (
    INPUT_NEGATIVE_PROMPT,
    INPUT_PROMPT,
    INPUT_SEED,
    OUTPUT_CONFIDENCE,
    OUTPUT_IMAGE,
    OUTPUT_IMAGE_PNG,
)
from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings

from ..pools.clients import Prompt
from ..requests import (
    Answer,
    GenerateRequest,
    Refused,
    check_deadline,
    check_id,
    check_priority,
    check_seed,
    check_tier,
    decode_prompt,
    invalid,
)

VERSION: Final = "1"
INPUTS: Final = {INPUT_PROMPT: "BYTES", INPUT_NEGATIVE_PROMPT: "BYTES", INPUT_SEED: "INT64"}
OUTPUT_VARIANT: Final = "variant"
OUTPUT_ROUTE: Final = "route"
OUTPUT_HARDNESS: Final = "hardness"
OUTPUTS: Final = {
    OUTPUT_IMAGE: "UINT8",
    OUTPUT_IMAGE_PNG: "BYTES",
    OUTPUT_VARIANT: "BYTES",
    OUTPUT_ROUTE: "BYTES",
    OUTPUT_CONFIDENCE: "FP32",
    OUTPUT_HARDNESS: "FP32",
}
DEFAULT_OUTPUTS: Final = tuple(name for name in OUTPUTS if name != OUTPUT_IMAGE_PNG)
PARAMETERS: Final = ("deadline_ms", "priority", "tier", "timeout")
_IGNORED_PARAMETERS: Final = frozenset({"binary_data_output", "triton_enable_empty_final_response"})
_CONTENTS: Final = {"BYTES": "bytes_contents", "INT64": "int64_contents"}


@dataclass(frozen=True, slots=True)
class Form:
    """How the client wants its answer: which outputs, and whether with a batch dimension."""

    outputs: tuple[str, ...]
    batched: bool


def read_request(message: Any, *, settings: RouterSettings, remaining_s: float | None) -> tuple[GenerateRequest, Form]:
    """A ModelInferRequest as a request; ``remaining_s`` is the time left on the call itself.

    Raises:
        Refused: INVALID with the field named, or UNKNOWN_MODEL for a version that there is not.
    """
    request_id = check_id(message.id)
    if message.model_version not in ("", VERSION):
        raise Refused(
            Refusal.UNKNOWN_MODEL,
            f"model_version: {message.model_version[:40]!r} is not served; leave it out or use {VERSION!r}",
            field="model_version",
        )
    values, batched = _read_inputs(message, limit=settings.prompt_limit)
    deadline_s, band, tier = _read_parameters(message.parameters, settings=settings)
    if INPUT_PROMPT not in values:
        raise invalid(INPUT_PROMPT, "is missing; send one BYTES input `prompt` of shape [1] or [1, 1]")
    request = GenerateRequest(
        id=request_id,
        id_chosen=bool(message.id),
        model=message.model_name,
        prompt=Prompt(values[INPUT_PROMPT], values.get(INPUT_NEGATIVE_PROMPT), values.get(INPUT_SEED)),
        deadline_s=deadline_s,
        call_s=remaining_s,
        band=band,
        tier=tier,
    )
    return request, Form(_read_outputs(message.outputs), batched)


def write_response(answer: Answer, form: Form, *, model: str, png: bytes | None) -> Any:
    """The ModelInferResponse; ``png`` is needed where the form asks for ``image_png``."""
    response = service_pb2.ModelInferResponse(model_name=model, model_version=VERSION, id=answer.request_id)
    confidence = float("nan") if answer.confidence is None else answer.confidence
    image = answer.image
    for name in form.outputs:
        shape = [1]
        if name == OUTPUT_IMAGE:
            shape, data = [image.height, image.width, 3], image.pixels
        elif name == OUTPUT_IMAGE_PNG:
            data = _pack_bytes(png or b"")
        elif name == OUTPUT_VARIANT:
            data = _pack_bytes(answer.variant.encode())
        elif name == OUTPUT_ROUTE:
            data = _pack_bytes(str(answer.route).encode())
        else:
            data = struct.pack("<f", confidence if name == OUTPUT_CONFIDENCE else answer.hardness)
        response.outputs.add(name=name, datatype=OUTPUTS[name], shape=[1, *shape] if form.batched else shape)
        response.raw_output_contents.append(data)
    return response


def _read_inputs(message: Any, *, limit: int) -> tuple[dict[str, Any], bool]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise invalid("raw_input_contents", f"has {len(raw)} entries for {len(message.inputs)} inputs")
    values: dict[str, Any] = {}
    batched = False
    for index, tensor in enumerate(message.inputs):
        name = tensor.name
        if name not in INPUTS:
            raise invalid("inputs", f"unknown input {name[:80]!r}; there are {', '.join(INPUTS)}")
        if name in values:
            raise invalid(name, "was sent twice")
        if tensor.datatype != INPUTS[name]:
            raise invalid(name, f"has datatype {tensor.datatype[:20]!r}; it must be {INPUTS[name]}")
        shape = list(tensor.shape)
        if shape not in ([1], [1, 1]):
            raise invalid(name, f"has shape {shape[:8]}; send one value per request, of shape [1] or [1, 1]")
        if tensor.parameters:
            raise invalid(
                name, f"parameter {next(iter(tensor.parameters))[:80]!r} is not supported; send the data itself"
            )
        if name == INPUT_PROMPT:
            batched = len(shape) == 2
        value = _unpack(name, raw[index]) if raw else _contents(name, tensor.contents)
        if name == INPUT_SEED:
            values[name] = check_seed(value)
        elif name == INPUT_PROMPT or value:
            values[name] = decode_prompt(value, limit=limit, field=name)
        else:
            values[name] = None  # an empty negative prompt is none
    return values, batched


def _unpack(name: str, data: bytes) -> Any:
    if INPUTS[name] == "INT64":
        if len(data) != 8:
            raise invalid(name, f"has {len(data)} bytes; one INT64 has 8")
        return struct.unpack("<q", data)[0]
    if len(data) < 4 or struct.unpack("<I", data[:4])[0] != len(data) - 4:
        raise invalid(name, "must hold exactly one BYTES element: its length in 4 bytes, little-endian, then its bytes")
    return data[4:]


def _contents(name: str, contents: Any) -> Any:
    field = _CONTENTS[INPUTS[name]]
    values = getattr(contents, field)
    if len(values) != 1:
        raise invalid(name, f"holds {len(values)} values in {field}; send exactly one")
    return values[0]


def _read_outputs(requested: Any) -> tuple[str, ...]:
    for output in requested:
        if output.name not in OUTPUTS:
            raise invalid("outputs", f"unknown output {output.name[:80]!r}; there are {', '.join(OUTPUTS)}")
        for parameter in output.parameters:
            if parameter != "binary_data":
                raise invalid(output.name, f"output parameter {parameter[:80]!r} is not supported")
    return tuple(dict.fromkeys(output.name for output in requested)) or DEFAULT_OUTPUTS


def _read_parameters(parameters: Mapping[str, Any], *, settings: RouterSettings) -> tuple[float | None, int, str]:
    deadline_s: float | None = None
    band, tier = check_priority(0), ""
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name == "deadline_ms":
            deadline_s = check_deadline(_number(name, value) / 1000, limit_s=settings.deadline_limit_s, field=name)
        elif name == "timeout":
            # Triton clients' own spelling, in microseconds.
            micros = _number(name, value)
            if deadline_s is None and "deadline_ms" not in parameters:
                deadline_s = check_deadline(micros / 1e6, limit_s=settings.deadline_limit_s, field=name)
        elif name == "priority":
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                raise invalid(name, "must be a name or a whole number")
            band = check_priority(value)
        elif name == "tier":
            if not isinstance(value, str):
                raise invalid(name, "must be text")
            tier = check_tier(value)
        elif name not in _IGNORED_PARAMETERS:
            raise invalid("parameters", f"unknown parameter {name[:80]!r}; there are {', '.join(PARAMETERS)}")
    return deadline_s, band, tier


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise invalid(name, "must be a number")
    try:
        return float(value)
    except ValueError:
        raise invalid(name, f"{value[:40]!r} is not a number") from None  # type: ignore[index]


def _pack_bytes(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data
