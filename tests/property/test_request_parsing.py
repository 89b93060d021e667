"""Parsing any input gives valid requests or a refusal that names a field, and never raises anything else."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from cascade_api.reasons import Refusal
from cascade_api.settings import RouterSettings
from cascade_router.requests import MAX_IMAGES, GenerateRequest, Receipt, RequestRefused, printable_id
from cascade_router.serving import kserve, openai

SETTINGS = RouterSettings(prompt_limit=40, deadline_limit_s=100)
NAMES = st.sampled_from(["prompt", "negative_prompt", "seed", "style", ""])
TYPES = st.sampled_from(["BYTES", "INT64", "FP32", ""])
ELEMENTS = st.one_of(st.binary(max_size=60), st.text(max_size=20).map(str.encode), st.just(b"a red circle"))
NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2, 3))
SHAPES = st.one_of(st.lists(st.integers(-2, 10), max_size=3), st.sampled_from([[1], [2], [1, 1], [2, 1], [2**62]]))


def raw_bytes(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def add_valid_inputs(message: Any, count: int, *, seeds: bool) -> None:
    prompts = message.inputs.add(name="prompt", datatype="BYTES", shape=[count])
    prompts.contents.bytes_contents.extend([b"a red circle"] * count)
    if seeds:
        message.inputs.add(name="seed", datatype="INT64", shape=[count, 1]).contents.int64_contents.extend(range(count))


def add_options(message: Any, draw: st.DrawFn) -> None:
    """Parameters and outputs, right and wrong."""
    for name in draw(
        st.lists(
            st.sampled_from(["deadline_ms", "timeout", "priority", "tier", "idempotency_key", "mood", "steps"]),
            max_size=2,
        )
    ):
        parameter = message.parameters[name]
        kind = draw(st.sampled_from(["int64_param", "double_param", "string_param", "bool_param", "none"]))
        if kind == "int64_param":
            parameter.int64_param = draw(NUMBERS)
        elif kind == "double_param":
            parameter.double_param = draw(st.floats())
        elif kind == "string_param":
            parameter.string_param = draw(st.sampled_from(["nan", "1e999", "high", "5", ""]) | st.text(max_size=30))
        elif kind == "bool_param":
            parameter.bool_param = draw(st.booleans())
    for name in draw(st.lists(st.sampled_from([*kserve.OUTPUTS, "depth"]), max_size=3)):
        message.outputs.add(name=name)


@st.composite
def messages(draw: st.DrawFn) -> Any:
    """ModelInferRequests, some nearly right."""
    if draw(st.booleans()):
        message = service_pb2.ModelInferRequest(model_name="shapes", id=draw(st.sampled_from(["", "r1", "a b"])))
        add_valid_inputs(message, draw(st.integers(1, MAX_IMAGES)), seeds=draw(st.booleans()))
        add_options(message, draw)
        return message
    message = service_pb2.ModelInferRequest(
        model_name=draw(st.text(max_size=10)),
        model_version=draw(st.sampled_from(["", "1", "2"])),
        id=draw(st.one_of(st.just(""), st.text(max_size=150))),
    )
    raw = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        tensor = message.inputs.add(name=draw(NAMES), datatype=draw(TYPES), shape=draw(SHAPES))
        elements = draw(st.lists(ELEMENTS, max_size=3))
        numbers = draw(st.lists(NUMBERS, max_size=3))
        if not raw:
            tensor.contents.bytes_contents.extend(elements)
            tensor.contents.int64_contents.extend(numbers)
    if raw:
        for _ in message.inputs:
            elements = draw(st.lists(ELEMENTS, max_size=3))
            packed = draw(st.sampled_from([raw_bytes(elements), struct.pack("<q", draw(NUMBERS))]))
            message.raw_input_contents.append(draw(st.one_of(st.just(packed), st.binary(max_size=40))))
    add_options(message, draw)
    return message


def check(requests: tuple[GenerateRequest, ...]) -> None:
    """What holds of every request that is let in."""
    assert 1 <= len(requests) <= MAX_IMAGES
    assert len({request.id for request in requests}) == len(requests)
    assert all(request.id.isascii() and request.id.isprintable() for request in requests)
    for request in requests:
        assert 0 < len(request.prompt.text.strip()) <= SETTINGS.prompt_limit
        request.prompt.text.encode()
        assert request.prompt.negative is None or request.prompt.negative.strip()
        assert request.prompt.seed is None or 0 <= request.prompt.seed < 2**63
        assert request.within_s is None or 0 < request.within_s <= SETTINGS.deadline_limit_s
        assert request.band in (0, 1, 2)


def check_refusal(refused: RequestRefused) -> None:
    assert refused.reason in (Refusal.INVALID, Refusal.UNKNOWN_MODEL)
    assert refused.field
    assert 0 < len(refused.message) < 400


@given(messages())
def test_any_grpc_message_is_read_or_refused(message: Any) -> None:
    try:
        requests, form = kserve.read_requests(message, settings=SETTINGS, receipt=Receipt(at=0.0))
    except RequestRefused as refused:
        check_refusal(refused)
        return
    check(requests)
    assert form.batch[0] == len(requests)
    assert form.outputs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELD_VALUES = st.one_of(JSON, st.sampled_from(["a red circle", "b64_json", "high", "\ud800", 1, 2, 10**400, True]))
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from([*openai.FIELDS, "mood"]), FIELD_VALUES, max_size=3).map(
        lambda fields: json.dumps({"prompt": "a red circle", **fields}).encode()
    ),
)


@given(BODIES, st.one_of(st.just("r1"), st.text(max_size=150)).map(printable_id))
def test_any_http_body_is_read_or_refused(body: bytes, request_id: str) -> None:
    try:
        wanted = openai.read_body(
            body,
            request_id=request_id,
            idempotency_key="",
            default_model="shapes",
            receipt=Receipt(at=0.0),
            settings=SETTINGS,
        )
    except RequestRefused as refused:
        check_refusal(refused)
        return
    check(wanted.requests)
    assert not (wanted.previews and not wanted.stream)
