"""For any wrong input, the client gets the field in its protocol's own status, and nothing else is disturbed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.router import EASY, RouterProcess
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract

Change = Callable[[Any], object]


def valid_request() -> Any:
    request = service_pb2.ModelInferRequest(model_name="shapes")
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(EASY.encode())
    return request


def prompt(data: bytes) -> Change:
    def change(request: Any) -> None:
        request.inputs[0].contents.bytes_contents[0] = data

    return change


def raw(*tensors: bytes) -> Change:
    def change(request: Any) -> None:
        request.inputs[0].ClearField("contents")
        request.raw_input_contents.extend(tensors)

    return change


def parameter(name: str, **value: Any) -> Change:
    def change(request: Any) -> None:
        request.parameters[name].CopyFrom(service_pb2.InferParameter(**value))

    return change


def input_parameter(name: str, **value: Any) -> Change:
    return lambda request: request.inputs[0].parameters[name].CopyFrom(service_pb2.InferParameter(**value))


def output_parameter(name: str, **value: Any) -> Change:
    def change(request: Any) -> None:
        request.outputs.add(name="image").parameters[name].CopyFrom(service_pb2.InferParameter(**value))

    return change


def second_input(name: str, datatype: str, shape: list[int], **contents: Any) -> Change:
    def change(request: Any) -> None:
        request.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)

    return change


def sides(width: list[int], height: list[int] | None) -> Change:
    def change(request: Any) -> None:
        for name, values in (("width", width), ("height", height)):
            if values is not None:
                request.inputs.add(name=name, datatype="INT64", shape=[1], contents={"int64_contents": values})

    return change


def set_prompt(field: str, value: Any) -> Change:
    def change(request: Any) -> None:
        if field == "shape":
            request.inputs[0].shape[:] = value
        else:
            setattr(request.inputs[0], field, value)

    return change


INVALID: dict[str, tuple[Change, str]] = {
    "an empty prompt": (prompt(b""), "prompt: is empty"),
    "a blank prompt": (prompt(b" \n\t"), "prompt: is empty"),
    "a prompt of no width": (prompt("\u200b\u200d\ufeff\u3164".encode()), "prompt: is empty"),
    "40 000 characters": (prompt(b"x" * 40_000), "prompt: has 40000 characters; at most 32000"),
    "a megabyte": (prompt(b"x" * 1_000_000), "prompt: has 1000000 bytes; at most 32000"),
    "invalid UTF-8": (prompt(b"a red \xff circle"), "prompt: is not valid UTF-8 (byte 6)"),
    "a prompt that the model cannot draw": (prompt(b"a purple dragon"), "prompt: did not understand 'purple'"),
    "no inputs": (lambda request: request.ClearField("inputs"), "prompt: is missing"),
    "a wrong datatype": (set_prompt("datatype", "FP32"), "prompt: has datatype 'FP32'; it must be BYTES"),
    "an unknown datatype": (set_prompt("datatype", "TEXT"), "prompt: has datatype 'TEXT'"),
    "a wrong shape": (set_prompt("shape", [1, 2]), "prompt: has shape [1, 2]; send [N] or [N, 1]"),
    "fewer prompts than said": (set_prompt("shape", [2]), "prompt: holds 1 values in bytes_contents; send exactly 2"),
    "too many prompts": (set_prompt("shape", [11]), "prompt: has shape [11]; send [N] or [N, 1] with N from 1 to 10"),
    "one prompt and two seeds": (
        second_input("seed", "INT64", [2], int64_contents=[1, 2]),
        "seed: has shape [2]; send one value per prompt, 1 in all",
    ),
    "a negative shape": (set_prompt("shape", [-1]), "prompt: has shape [-1]"),
    "no shape": (set_prompt("shape", []), "prompt: has shape []"),
    "an unknown input": (second_input("style", "BYTES", [1]), "inputs: unknown input 'style'; the inputs are prompt"),
    "an input twice": (second_input("prompt", "BYTES", [1], bytes_contents=[b"x"]), "prompt: was sent twice"),
    "contents of another type": (second_input("seed", "INT64", [1], fp32_contents=[1.0]), "seed: holds 0 values"),
    "two seeds": (second_input("seed", "INT64", [1], int64_contents=[1, 2]), "seed: holds 2 values"),
    "a negative seed": (second_input("seed", "INT64", [1], int64_contents=[-1]), "seed: -1 is not between 0"),
    "raw contents too many": (raw(b"x", b"y"), "raw_input_contents: has 2 entries for 1 inputs"),
    "raw contents without a length": (raw(b"abc"), "prompt: must hold exactly 1 BYTES element:"),
    "raw contents with a wrong length": (raw(struct.pack("<I", 99) + b"abc"), "prompt: must hold exactly 1 BYTES"),
    "an unknown output": (lambda request: request.outputs.add(name="depth"), "outputs: unknown output 'depth'"),
    "another name of steps": (parameter("steps", int64_param=9), "'steps' is called num_inference_steps here"),
    "another name of guidance": (parameter("Cfg_Scale", double_param=7.5), "'Cfg_Scale' is called guidance_scale here"),
    "a scheduler": (parameter("scheduler", string_param="euler"), "parameter 'scheduler' is fixed by the cascade"),
    "steps that no variant takes": (
        parameter("num_inference_steps", int64_param=9),
        "num_inference_steps: 9 is not what any variant takes; they take 2, 24",
    ),
    "steps in words": (parameter("num_inference_steps", string_param="few"), "num_inference_steps: must be a whole"),
    "guidance that no variant has": (
        parameter("guidance_scale", double_param=99.5),
        "guidance_scale: 99.5 is not what any variant has; leave it out",
    ),
    "absurd guidance": (parameter("guidance_scale", string_param="nan"), "guidance_scale: nan is not between 0 and"),
    "a size": (parameter("width", int64_param=512), "parameters: parameter 'width' is an input; send it as an INT64"),
    "a size that is not offered": (sides([64], [64]), "size: '64x64' is not offered; leave it out or use 32x32"),
    "one side only": (sides([64], None), "height: is missing; send both width and height, or neither"),
    "a side below zero": (sides([-5], [32]), "size: '-5x32' is not offered"),
    "a seed as a parameter": (parameter("seed", int64_param=9), "parameter 'seed' is an input; send it as an INT64"),
    "a negative prompt as a parameter": (parameter("negative_prompt", string_param="x"), "is an input; send it as a"),
    "several images as a parameter": (parameter("num_images", int64_param=4), "send one prompt for each image"),
    "a negative deadline": (parameter("deadline_ms", int64_param=-5), "deadline_ms: must be at least 1 ms from now"),
    "no deadline at all": (parameter("deadline_ms", int64_param=0), "deadline_ms: must be at least 1 ms"),
    "hardly a deadline": (parameter("deadline_ms", double_param=5e-324), "deadline_ms: must be at least 1 ms"),
    "an absurd deadline": (parameter("deadline_ms", int64_param=10**15), "deadline_ms: 1e+15 ms is longer than"),
    "a deadline of NaN": (parameter("deadline_ms", double_param=float("nan")), "deadline_ms: is not a finite number"),
    "an infinite deadline": (parameter("deadline_ms", string_param="inf"), "deadline_ms: is not a finite number"),
    "a deadline in words": (parameter("deadline_ms", string_param="soon"), "deadline_ms: 'soon' is not a number"),
    "a deadline of yes": (parameter("deadline_ms", bool_param=True), "deadline_ms: must be a number"),
    "a negative timeout": (parameter("timeout", int64_param=-1), "timeout: must be at least 1 ms"),
    "an unknown priority": (parameter("priority", string_param="urgent"), "priority: 'urgent' is none of high"),
    "a negative priority": (parameter("priority", int64_param=-1), "priority: -1 is not a priority"),
    "an unknown tier": (parameter("tier", string_param="gold"), "tier: 'gold' is none of auto, low, medium, high"),
    "shared memory": (
        input_parameter("shared_memory_region", string_param="region"),
        "prompt: parameter 'shared_memory_region' is not supported: shared memory works on one machine only",
    ),
    "an output in shared memory": (
        output_parameter("shared_memory_region", string_param="region"),
        "image: parameter 'shared_memory_region' is not supported",
    ),
    "classes": (
        output_parameter("classification", int64_param=3),
        "image: parameter 'classification' is not supported",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_over_grpc_the_field_is_named(shared_router: RouterProcess, case: str) -> None:
    change, said = INVALID[case]
    code, details = infer(shared_router, change)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said in details
    assert "Traceback" not in details
    assert len(details) < 500


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda request: setattr(request, "model_name", "portraits"), "model: 'portraits' is not served here"),
        (lambda request: setattr(request, "model_name", ""), "model: '' is not served here; there is: shapes"),
        (lambda request: setattr(request, "model_name", "other.shapes"), "model: 'other.shapes' is not served here"),
        (lambda request: setattr(request, "model_version", "2"), "model_version: '2' is not served"),
    ],
)
def test_an_unknown_model_is_not_found(shared_router: RouterProcess, change: Change, said: str) -> None:
    code, details = infer(shared_router, change)
    assert code is grpc.StatusCode.NOT_FOUND
    assert said in details


def test_what_is_odd_but_valid_is_served(shared_router: RouterProcess) -> None:
    for change in (
        parameter("priority", string_param="high"),
        parameter("priority", uint64_param=3),
        parameter("priority", uint64_param=2**40),
        parameter("priority", string_param="99999999999999999999"),
        parameter("deadline_ms", string_param="120000"),
        parameter("timeout", int64_param=120_000_000),
        parameter("timeout", int64_param=0),
        parameter("timeout", int64_param=10**15),
        parameter("tier", string_param="medium"),
        prompt(b"  A  Large RED circle. "),
        lambda request: setattr(request, "id", "my id"),
        parameter("sequence_id", int64_param=7),
        parameter("sequence_id", string_param="seven"),
        parameter("sequence_start", bool_param=True),
        parameter("sequence_end", bool_param=True),
        parameter("binary_data_output", bool_param=True),
        parameter("traceparent-ish header", string_param="00-1"),
        parameter("custom", double_param=0.5),
        parameter("", bool_param=False),
        input_parameter("binary_data_size", int64_param=22),
        input_parameter("content_type", string_param="str"),
        output_parameter("binary_data", bool_param=True),
        output_parameter("custom", string_param="x"),
    ):
        assert infer(shared_router, change)[0] is grpc.StatusCode.OK


BODIES: dict[str, tuple[Any, int, str | None, str]] = {
    "an empty prompt": ({"prompt": ""}, 400, "prompt", "is empty"),
    "no prompt": ({}, 400, "prompt", "is missing"),
    "a prompt of numbers": ({"prompt": 7}, 400, "prompt", "must be text"),
    "40 000 characters": ({"prompt": "x" * 40_000}, 400, "prompt", "at most 32000"),
    "what the model cannot draw": ({"prompt": "a purple dragon"}, 400, "prompt", "did not understand 'purple'"),
    "half a surrogate pair": (b'{"prompt": "\\ud800"}', 400, "prompt", "surrogate"),
    "an unknown model": ({"prompt": EASY, "model": "dall-e"}, 404, "model", "there is: shapes"),
    "an unknown field": ({"prompt": EASY, "guidance": 7}, 400, "guidance", "not a known field"),
    "another size": ({"prompt": EASY, "size": "1024x1024"}, 400, "size", "use 32x32"),
    "an address wanted": ({"prompt": EASY, "response_format": "url"}, 400, "response_format", "use b64_json"),
    "transparency": ({"prompt": EASY, "background": "transparent"}, 400, "background", "opaque images only"),
    "a moving picture": ({"prompt": EASY, "output_format": "gif"}, 400, "output_format", "use png, jpeg or webp"),
    "an unknown format": ({"prompt": EASY, "output_format": "bmp"}, 400, "output_format", "none of png, jpeg, webp"),
    "frames": ({"prompt": EASY, "frame_count": 9}, 400, "frame_count", "images are not animated"),
    "an unknown quality": ({"prompt": EASY, "quality": "best"}, 400, "quality", "none of auto, low, medium"),
    "quality in numbers": ({"prompt": EASY, "quality": 7}, 400, "quality", "must be text"),
    "an unknown style": ({"prompt": EASY, "style": "cubist"}, 400, "style", "none of vivid, natural"),
    "lossy PNG": ({"prompt": EASY, "output_compression": 50}, 400, "output_compression", "png is always lossless"),
    "too little compression": (
        {"prompt": EASY, "output_format": "webp", "output_compression": 101},
        400,
        "output_compression",
        "0 and 100",
    ),
    "a user that is none": ({"prompt": EASY, "user": 7}, 400, "user", "must be text"),
    "no images": ({"prompt": EASY, "n": 0}, 400, "n", "between 1 and 10"),
    "too many images": ({"prompt": EASY, "n": 11}, 400, "n", "between 1 and 10"),
    "half an image": ({"prompt": EASY, "n": 1.5}, 400, "n", "whole number"),
    "true images": ({"prompt": EASY, "n": True}, 400, "n", "whole number"),
    "a huge seed": ({"prompt": EASY, "seed": 2**70}, 400, "seed", "not between"),
    "a negative deadline": ({"prompt": EASY, "deadline_ms": -1}, 400, "deadline_ms", "at least 1 ms"),
    "hardly a deadline": (b'{"prompt": "x", "deadline_ms": 5e-324}', 400, "deadline_ms", "at least 1 ms"),
    "a prompt of no width": ({"prompt": "\u200b\u200b"}, 400, "prompt", "is empty"),
    "a deadline of NaN": (b'{"prompt": "x", "deadline_ms": NaN}', 400, "deadline_ms", "finite"),
    "a huge deadline": (b'{"prompt": "x", "deadline_ms": 1%s}' % (b"0" * 400), 400, "deadline_ms", "finite"),
    "a deadline in words": ({"prompt": EASY, "deadline_ms": "soon"}, 400, "deadline_ms", "number"),
    "an unknown priority": ({"prompt": EASY, "priority": "urgent"}, 400, "priority", "none of high"),
    "not JSON": (b"prompt=cat", 400, "body", "send a JSON object"),
    "no body": (b"", 400, "body", "send a JSON object"),
    "a list": ([EASY], 400, "body", "not a JSON object"),
    "deep nesting": (b"[" * 100_000, 400, "body", "send a JSON object"),
    "invalid UTF-8": (b'{"prompt": "\xff"}', 400, "body", "UTF-8"),
    "two megabytes": (b" " * 2_000_000, 413, None, "longer than"),
}


@pytest.mark.parametrize("case", BODIES)
def test_over_http_the_error_has_openai_form(shared_router: RouterProcess, case: str) -> None:
    body, status, param, said = BODIES[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = httpx.post(
        shared_router.http_url + "/v1/images/generations",
        content=content,
        headers={"content-type": "application/json"},
        timeout=PATIENCE_S,
    )
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in reply.text


def test_other_paths_and_methods_have_error_bodies_too(shared_router: RouterProcess) -> None:
    for path, status in (("/v1/images/generations", 405), ("/v1/images/edits", 405), ("/v1/images/variations", 404)):
        reply = shared_router.get(path)
        assert reply.status_code == status
        assert path in reply.json()["error"]["message"]


def test_nothing_was_disturbed(shared_router: RouterProcess) -> None:
    assert infer(shared_router, lambda request: None)[0] is grpc.StatusCode.OK
    log = shared_router.log.read_text()
    assert '"level": "error"' not in log
    assert "dragon" not in log  # prompts are not logged


def infer(router: RouterProcess, change: Change) -> tuple[grpc.StatusCode, str]:
    """Status and message of a request that is valid but for ``change``."""
    request = valid_request()
    change(request)
    with grpc.insecure_channel(router.grpc) as channel:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return error.code(), error.details()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK, ""
