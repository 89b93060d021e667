"""The bodies of KServe v2 over HTTP as pydantic models, and their conversion from and to the messages of gRPC.

A body is JSON, and with the binary extension the bytes of tensors follow it, in the order of the tensors. So HTTP
differs from gRPC in how tensors are written, and in nothing else: `kserve` reads and writes the messages of both.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from tritonclient.grpc import service_pb2

from ..requests import invalid
from .kserve import BINARY_ONLY, INPUTS

BINARY_SIZE: Final = "binary_data_size"
BINARY: Final = "binary_data"
BINARY_OUTPUT: Final = "binary_data_output"
JSON_PIXELS: Final = 256 * 256
"""Most pixels of images that are sent as JSON: a number for each byte takes long to write, and much memory."""
_MAX_INT64: Final = 2**63
_NUMBERS: Final = {"FP32": "f", "UINT8": "B", "BOOL": "?"}

Parameters = dict[str, bool | int | float | str]


class _Body(BaseModel):
    """Unknown fields are ignored, as in Triton."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)


class TensorData(_Body):
    """An input."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    """with `binary_data_size`, that many bytes after the JSON are the tensor's data"""
    data: Any = None
    """a list of the elements, which may be nested; text for BYTES"""


class WantedOutput(_Body):
    """An output that is wanted."""

    name: str
    parameters: Parameters | None = None
    """with `binary_data`, whether it is sent as bytes after the JSON"""


class InferRequest(_Body):
    """A request for one image or several, as in `ModelInfer` of gRPC."""

    id: str | None = None
    parameters: Parameters | None = None
    """as over gRPC; with `binary_data_output`, whether outputs are sent as bytes after the JSON"""
    inputs: list[TensorData]
    outputs: list[WantedOutput] | None = None


class OutputData(_Body):
    """An output."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    """with `binary_data_size` if the data follows the JSON"""
    data: list[Any] | None = None


class InferResponse(_Body):
    """The answer to an `InferRequest`."""

    id: str
    model_name: str
    model_version: str
    outputs: list[OutputData]


class KserveError(_Body):
    """Why there is no answer."""

    error: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a ModelInferRequest, and which of its outputs are sent as bytes."""

    message: Any
    binary: Mapping[str, bool]
    by_default: bool
    """Whether outputs that the client does not name are sent as bytes."""

    def is_binary(self, output: str) -> bool:
        return self.binary.get(output, self.by_default)


def read_infer(body: bytes, *, json_length: int | None, model: str, version: str) -> Asked:
    """A request from its body, of which the first ``json_length`` bytes are JSON (None: all of them).

    Raises:
        RequestRefused: INVALID, which names the field.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise invalid("inference-header-content-length", f"is {json_length} for a body of {len(body)} bytes")
    split = len(body) if json_length is None else json_length
    asked = _parse(body[:split])
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=asked.id or "")
    by_default = (asked.parameters or {}).pop(BINARY_OUTPUT, False) is True
    _add_parameters(message.parameters, asked.parameters, "parameters")
    rest = memoryview(body)[split:]
    for tensor in asked.inputs:
        added = message.inputs.add(name=tensor.name, datatype=tensor.datatype)
        try:
            added.shape.extend(tensor.shape)
        except ValueError:
            raise invalid(tensor.name[:80] or "inputs", "shape: has a number that does not fit into 64 bits") from None
        size = (tensor.parameters or {}).pop(BINARY_SIZE, None)
        _add_parameters(added.parameters, tensor.parameters, tensor.name)
        if size is None:
            message.raw_input_contents.append(_packed(tensor))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
            raise invalid(
                tensor.name[:80] or "inputs", f"{BINARY_SIZE}: {size!r:.40} is not a number of bytes that follow"
            )
        message.raw_input_contents.append(bytes(rest[:size]))
        rest = rest[size:]
    if rest:
        raise invalid("body", f"{len(rest)} bytes follow that belong to no input")
    binary: dict[str, bool] = {}
    for output in asked.outputs or ():
        parameters = dict(output.parameters or {})
        binary[output.name] = parameters.pop(BINARY, by_default) is True
        _add_parameters(message.outputs.add(name=output.name).parameters, parameters, output.name)
    return Asked(message, binary, by_default)


def check_outputs(asked: Asked, outputs: Sequence[str], *, pixels: int) -> None:
    """Refuse outputs that JSON cannot hold, for images of so many pixels in all. Raises RequestRefused."""
    for name in outputs:
        if asked.is_binary(name):
            continue
        if name in BINARY_ONLY:
            raise invalid(name, f"is a file, which JSON cannot hold; ask for it with the parameter {BINARY}")
        if name == "image" and pixels > JSON_PIXELS:
            raise invalid(
                name,
                f"has too many pixels for JSON ({pixels}, of {JSON_PIXELS}); ask for it with the parameter {BINARY}",
            )


def write_infer(response: Any, asked: Asked) -> tuple[list[bytes], int | None]:
    """The parts of the body for a ModelInferResponse, and the length of the JSON if bytes follow it."""
    outputs, contents = [], []
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if asked.is_binary(tensor.name):
            told["parameters"] = {BINARY_SIZE: len(raw)}
            contents.append(raw)
        else:
            told["data"] = list(_elements(tensor.datatype, raw))
        outputs.append(told)
    head = json.dumps(
        {
            "id": response.id,
            "model_name": response.model_name,
            "model_version": response.model_version,
            "outputs": outputs,
        }
    ).encode()
    return [head, *contents], len(head) if contents else None


def plain(message: Any) -> dict[str, Any]:
    """A protobuf message as JSON, with numbers as numbers (protobuf's own converter makes text of large ones)."""
    told: dict[str, Any] = {}
    for field, value in message.ListFields():
        items = value if field.is_repeated else [value]
        if field.message_type is not None:
            items = [plain(item) for item in items]
        elif field.enum_type is not None:
            items = [field.enum_type.values_by_number[item].name for item in items]
        told[field.name] = list(items) if field.is_repeated else items[0]
    return told


def _parse(body: bytes) -> InferRequest:
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise invalid("body", "is not a JSON object in UTF-8, with the bytes of tensors after it or without") from None
    try:
        return InferRequest.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in problem["loc"][:4]) or "body"
        raise invalid(place, f"{problem['msg'][:160]}") from None


def _add_parameters(to: Any, parameters: Mapping[str, bool | int | float | str] | None, field: str) -> None:
    for name, value in (parameters or {}).items():
        try:
            if isinstance(value, bool):
                to[name].bool_param = value
            elif isinstance(value, int):
                to[name].int64_param = value
            elif isinstance(value, float):
                to[name].double_param = value
            else:
                to[name].string_param = value
        except (ValueError, UnicodeEncodeError):
            raise invalid(
                field[:80] or "parameters", f"parameter {name[:80]!r} has a value that cannot be read"
            ) from None


def _packed(tensor: TensorData) -> bytes:
    """The elements of JSON in the binary form."""
    name, datatype = tensor.name[:80] or "inputs", tensor.datatype
    try:
        elements = list(_flat(tensor.data))
    except RecursionError:
        raise invalid(name, "is nested too deeply") from None
    if datatype != INPUTS.get(tensor.name):
        return b""  # `kserve` refuses it, and says why
    if datatype == "INT64":
        if not all(isinstance(e, int) and not isinstance(e, bool) and -_MAX_INT64 <= e < _MAX_INT64 for e in elements):
            raise invalid(name, "holds what is not a whole number of 64 bits")
        return struct.pack(f"<{len(elements)}q", *elements)
    if not all(isinstance(element, str) for element in elements):
        raise invalid(name, "holds what is not text")
    try:
        encoded = [element.encode() for element in elements]
    except UnicodeEncodeError:
        raise invalid(name, "holds half of a surrogate pair; send valid Unicode") from None
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def _flat(data: Any) -> Iterator[Any]:
    if not isinstance(data, list):
        yield data
        return
    for each in data:
        yield from _flat(each)


def _elements(datatype: str, raw: bytes) -> Iterator[Any]:
    """The elements of the binary form for JSON, which has no NaN."""
    if datatype == "BYTES":
        at = 0
        while at < len(raw):
            (length,) = struct.unpack_from("<I", raw, at)
            yield raw[at + 4 : at + 4 + length].decode(errors="replace")
            at += 4 + length
        return
    for (value,) in struct.iter_unpack(f"<{_NUMBERS[datatype]}", raw):
        yield None if isinstance(value, float) and math.isnan(value) else value
