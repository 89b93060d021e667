"""KServe over HTTP: JSON and bytes say the same, and anything else is refused by name."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from cascade_api.reasons import Refusal, Route
from cascade_api.settings import RouterSettings
from cascade_router.cascade.choosing import Wish
from cascade_router.pools.clients import TritonImage
from cascade_router.requests import MadeImage, Receipt, RequestRefused
from cascade_router.serving import kserve, kserve_bodies

SETTINGS = RouterSettings()
WHO_MADE = ("variant", "lora")


def element(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def read(content: Any, rest: bytes = b"") -> kserve_bodies.Asked:
    head = content if isinstance(content, bytes) else json.dumps(content).encode()
    return kserve_bodies.read_infer(head + rest, json_length=len(head), model="shapes", version="")


def requests_of(asked: kserve_bodies.Asked) -> Any:
    return kserve.read_requests(asked.message, settings=SETTINGS, receipt=Receipt(at=0.0))


def prompt(**changes: Any) -> dict[str, Any]:
    return {"name": "prompt", "shape": [1], "datatype": "BYTES", **changes}


def refusal_of(content: Any, rest: bytes = b"") -> str:
    with pytest.raises(RequestRefused) as refused:
        requests_of(read(content, rest))
    assert refused.value.reason is Refusal.INVALID
    return refused.value.message


def test_json_and_bytes_make_the_same_requests() -> None:
    seed = {"name": "seed", "shape": [2, 1], "datatype": "INT64"}
    texts, parameters = ["a cat", "ein Bär"], {"tier": "low", "deadline_ms": 900, "x": True, "y": 0.5}
    packed = b"".join(map(element, texts))
    in_json = read(
        {
            "id": "r1",
            "parameters": parameters,
            "inputs": [prompt(shape=[2, 1], data=[[texts[0]], [texts[1]]]), {**seed, "data": [3, 4]}],
        }
    )
    in_bytes = read(
        {
            "id": "r1",
            "parameters": parameters,
            "inputs": [
                prompt(shape=[2, 1], parameters={"binary_data_size": len(packed)}),
                {**seed, "parameters": {"binary_data_size": 16}},
            ],
        },
        packed + struct.pack("<2q", 3, 4),
    )
    assert in_json.message == in_bytes.message
    requests, form = requests_of(in_json)
    assert [(each.prompt.text, each.prompt.seed) for each in requests] == [("a cat", 3), ("ein Bär", 4)]
    assert (requests[0].wish.tier, requests[0].within_s, form.batch) == ("low", 0.9, (2, 1))


def test_an_adapter_is_a_parameter_and_an_output_for_those_who_name_it() -> None:
    asked = read(
        {"parameters": {"lora": "ink"}, "inputs": [prompt(data=["a cat"])], "outputs": [{"name": n} for n in WHO_MADE]}
    )
    ((request,), form) = requests_of(asked)
    assert request.wish == Wish(lora="ink")
    image = TritonImage(height=1, width=1, pixels=bytes(3))
    answer = MadeImage("r", "shapes", image, "heavy", Route.DIRECT, 0.5, None, 1.0, lora="ink")
    made = kserve.write_response([answer], form, request_id="r", model="shapes")
    assert dict(zip(WHO_MADE, made.raw_output_contents, strict=True)) == {
        "variant": element("heavy"),
        "lora": element("ink"),
    }
    assert "lora" not in kserve.DEFAULT_OUTPUTS


@pytest.mark.parametrize(
    ("content", "rest", "said"),
    [
        (b"\xff", b"", "body: is not a JSON object"),
        ([], b"", "body: "),
        ({"inputs": [{"name": "prompt"}]}, b"", "inputs.0.shape: "),
        ({"inputs": [prompt(data=["a"])]}, b"xx", "body: 2 bytes follow that belong to no input"),
        ({"inputs": [prompt(parameters={"binary_data_size": 9})]}, b"", "prompt: binary_data_size: 9 is not a number"),
        ({"inputs": [prompt(parameters={"binary_data_size": True})]}, b"", "prompt: binary_data_size: True is not"),
        ({"inputs": [prompt(data=[7])]}, b"", "prompt: holds what is not text"),
        ({"inputs": [prompt(data=["\ud800"])]}, b"", "prompt: holds half of a surrogate pair"),
        ({"inputs": [prompt(data=["a", "b"])]}, b"", "prompt: must hold exactly 1 BYTES element"),
        ({"inputs": [prompt(data=["a"], shape=[2**70])]}, b"", "prompt: shape: has a number that does not fit"),
        ({"inputs": [prompt(data=["a"]), {"name": "seed", "shape": [1], "datatype": "INT64", "data": [2**64]}]}, b"",
         "seed: holds what is not a whole number of 64 bits"),
        ({"inputs": [prompt(data=["a"])], "parameters": {"x": 2**64}}, b"", "parameters: parameter 'x' has a value"),
        ({"inputs": [prompt(data=["a"])], "parameters": {"lora": 7}}, b"", "lora: must be text"),
        ({"inputs": [prompt(data=["a"])], "parameters": {"loras": "ink"}}, b"",
         "parameters: parameter 'loras' is called lora here, and names one adapter"),
        ({"inputs": [prompt(data=["a"])], "outputs": [{"name": "depth"}]}, b"", "outputs: unknown output 'depth'"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(content: Any, rest: bytes, said: str) -> None:
    assert refusal_of(content, rest).startswith(said)


def test_json_holds_no_files_and_no_large_images() -> None:
    asked = read({"inputs": [prompt(data=["a"])], "outputs": [{"name": "image_encoded"}, {"name": "image"}]})
    with pytest.raises(RequestRefused, match="image_encoded: is a file"):
        kserve_bodies.check_outputs(asked, ["image_encoded"], pixels=1)
    with pytest.raises(RequestRefused, match="image: has too many pixels"):
        kserve_bodies.check_outputs(asked, ["image"], pixels=257 * 256)
    kserve_bodies.check_outputs(asked, ["image", "route"], pixels=256 * 256)
    both = read({"inputs": [prompt(data=["a"])], "parameters": {"binary_data_output": True}})
    kserve_bodies.check_outputs(both, ["image", "image_encoded"], pixels=1024 * 1024)


@pytest.mark.parametrize("binary", [False, True])
def test_an_answer_is_json_with_or_without_bytes_after_it(binary: bool) -> None:
    response = service_pb2.ModelInferResponse(model_name="shapes", model_version="1", id="r1")
    contents = {"image": ("UINT8", bytes([0, 9, 255])), "confidence": ("FP32", struct.pack("<f", float("nan"))),
                "route": ("BYTES", element("light")), "prompt_cut": ("BOOL", b"\x01")}  # fmt: skip
    for name, (datatype, raw) in contents.items():
        response.outputs.add(name=name, datatype=datatype, shape=[1])
        response.raw_output_contents.append(raw)
    asked = read({"inputs": [prompt(data=["a"])], "parameters": {"binary_data_output": binary}})
    parts, json_length = kserve_bodies.write_infer(response, asked)
    head = json.loads(parts[0])
    kserve_bodies.InferResponse.model_validate(head)
    if binary:
        assert json_length == len(parts[0])
        assert parts[1:] == [raw for _, raw in contents.values()]
        assert [output["parameters"]["binary_data_size"] for output in head["outputs"]] == [3, 4, 9, 1]
    else:
        assert (json_length, len(parts)) == (None, 1)
        assert [output["data"] for output in head["outputs"]] == [[0, 9, 255], [None], ["light"], [True]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["prompt", "seed", "negative_prompt", "", "x"]),
        "shape": st.lists(st.integers(-2, 11), max_size=3),
        "datatype": st.sampled_from(["BYTES", "INT64", "FP32"]),
    },
    optional={
        "data": JSON,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), JSON, max_size=2),
    },
)
BODIES = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"inputs": st.lists(st.one_of(TENSORS, st.just(prompt(data=["a cat"]))), max_size=3)},
        optional={"parameters": JSON, "outputs": JSON, "id": JSON},
    ),
)


def check(refused: RequestRefused) -> None:
    assert refused.reason in (Refusal.INVALID, Refusal.UNKNOWN_MODEL)
    assert refused.field
    assert len(refused.message) < 500


@given(BODIES, st.binary(max_size=30), st.one_of(st.none(), st.integers(-5, 300)))
def test_any_body_is_read_or_refused(content: Any, rest: bytes, json_length: int | None) -> None:
    head = json.dumps(content).encode()
    length = len(head) if json_length is None else json_length
    try:
        asked = kserve_bodies.read_infer(head + rest, json_length=length, model="shapes", version="")
        requests, form = requests_of(asked)
    except RequestRefused as refused:
        check(refused)
        return
    assert len(requests) == form.batch[0]
