"""Any bytes over HTTP or gRPC are served or refused: none is a defect, and none leaves a traceback."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2

from support.router import EASY, RouterProcess
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.contract

TRIES = 300
INFERENCE = "/inference.GRPCInferenceService"
METHODS = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
OTHERS = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
STREAMED = {f"{INFERENCE}/ModelStreamInfer", *OTHERS[2:]}
DEFECTS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}

NAMES = [
    "prompt", "n", "seed", "size", "model", "user", "stream", "deadline_ms", "priority", "tier", "negative_prompt",
    "quality", "style", "background", "output_format", "output_compression", "moderation", "partial_images",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 2**64, 1e308, 0.5, "", " ", "auto", EASY, "\ud800", "\x00", "é\u200b\u202e", [], {}, [[]],
    {"\udfff": "\ud800"}, "9" * 50, 10**100, "x" * 5000, float("nan"), float("inf"), ["\ud800"],
]  # fmt: skip
HEADS = [
    "x-request-id: {}", "authorization: {}", "idempotency-key: {}", "traceparent: {}", "content-length: {}",
    "accept: {}", "origin: {}", "transfer-encoding: {}", "expect: {}", "content-type: {}", "upgrade: {}",
    "connection: {}", "cookie: {}", "accept-encoding: {}", "x-forwarded-for: {}", "range: {}",
]  # fmt: skip
SAID = ["", "é", "\xff", "a b", "x" * 300, "-1", "1e9", "chunked", "null", "100-continue", "Bearer \xfe", "0", "\t"]
PATHS = [
    "/v1/images/generations", "/v1/jobs", "/v1/jobs/{}", "/v1/jobs/{}?wait={}", "/v1/models",
    "/v1/models/{}", "/", "/healthz", "/readyz", "/metrics", "/openapi.json",
    "/{}", "/v1/{}", "*", "http://other/{}", "//{}", "/healthz/?{}#{}",
]  # fmt: skip
ODD = ["%ff", "%00", "%ed%a0%80", "..%2f..", "shapes", "default.shapes.x", "%", "a" * 300, "0", "-5", "nan", "1e400"]


@pytest.fixture
def logged(shared_router: RouterProcess) -> Iterator[None]:
    """What the router logs inside the test tells of no defect."""
    before = len(shared_router.log.read_text())
    yield
    log = shared_router.log.read_text()[before:]
    assert "Traceback" not in log, log[-5000:]
    assert '"level": "error"' not in log, log[-5000:]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("logged")
def test_over_http(shared_router: RouterProcess, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(TRIES):
        said = _mangled(rng, _http_request(rng)) if rng.random() < 0.3 else _http_request(rng)
        heard = _talk(shared_router.http_url, said)
        status = re.match(rb"HTTP/1\.1 (\d+) ", heard)
        assert heard == b"" or status is not None, (said, heard)
        assert status is None or status[1] not in (b"500", b"502"), (said, heard)
    assert shared_router.get("/healthz").status_code == 200


@pytest.mark.parametrize("body", [b'{"\\ud800":0}', b'{"a":{"\\ud800":0}}', b'{"prompt":"\xed\xa0\x80"}', b'"\\ud800"'])
@pytest.mark.usefixtures("logged")
def test_halves_of_surrogate_pairs_are_refused_wherever_they_stand(shared_router: RouterProcess, body: bytes) -> None:
    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    heard = _talk(shared_router.http_url, head + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert heard.startswith(b"HTTP/1.1 400 "), heard
    assert b"Invalid" in heard


@pytest.mark.parametrize("method", [*(f"{INFERENCE}/{name}" for name in METHODS), *OTHERS])
@pytest.mark.usefixtures("logged")
def test_what_is_no_protobuf_is_refused_by_every_method(shared_router: RouterProcess, method: str) -> None:
    assert _call(shared_router.grpc, method, b"\xff") is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("logged")
def test_over_grpc(shared_router: RouterProcess, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(TRIES):
        method, message = rng.choice(_messages())
        code = _call(shared_router.grpc, method, _mangled(rng, message))
        assert code not in DEFECTS, (method, message)


def _http_request(rng: random.Random) -> bytes:
    path = rng.choice(PATHS)
    path = path.format(*(rng.choice(ODD) for _ in range(2)))
    content = {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randrange(4))}
    if rng.random() < 0.3:
        content[str(rng.choice(VALUES))] = 0
    body = json.dumps(content).encode()
    lines = [f"{rng.choice(['GET', 'POST', 'POST', 'POST', 'DELETE', 'HEAD', 'OPTIONS'])} {path} HTTP/1.1"]
    lines += ["host: localhost", "connection: close", "content-type: application/json"]
    lines += [rng.choice(HEADS).format(rng.choice(SAID)) for _ in range(rng.randrange(3))]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _messages() -> list[tuple[str, bytes]]:
    infer = service_pb2.ModelInferRequest(model_name="shapes", id="1", model_version="1")
    infer.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(EASY.encode())
    infer.inputs.add(name="seed", datatype="INT64", shape=[1]).contents.int64_contents.append(7)
    infer.parameters["deadline_ms"].int64_param = 20_000
    infer.parameters["priority"].string_param = "high"
    infer.outputs.add(name="image_encoded").parameters["binary_data"].bool_param = True
    named = [(f"{INFERENCE}/{each}", b"\x0a\x06shapes\x12\x011") for each in METHODS if each != "ModelStreamInfer"]
    reflected = reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService")
    return [
        *(3 * [(f"{INFERENCE}/ModelInfer", infer.SerializeToString())]),
        *(3 * [(f"{INFERENCE}/ModelStreamInfer", infer.SerializeToString())]),
        *named,
        (OTHERS[0], health_pb2.HealthCheckRequest(service="inference").SerializeToString()),
        *((each, reflected.SerializeToString()) for each in OTHERS[2:]),
    ]


def _mangled(rng: random.Random, data: bytes) -> bytes:
    mangled = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(mangled) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            mangled[at:at] = bytes([rng.randrange(256)])
        elif kind == 1:
            del mangled[at : at + rng.randint(1, 4)]
        elif mangled:
            mangled[at % len(mangled)] = rng.randrange(256)
    return bytes(mangled)


def _talk(url: str, said: bytes) -> bytes:
    """What comes back, at least the head of it; the connection is not used again."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        heard = b""
        try:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while b"\r\n\r\n" not in heard and (part := connection.recv(65536)):
                heard += part
            connection.settimeout(0.02)
            while part := connection.recv(65536):
                heard += part
        except (ConnectionError, TimeoutError):
            pass
        return heard


def _call(address: str, method: str, message: bytes) -> grpc.StatusCode:
    with grpc.insecure_channel(address) as channel:
        try:
            if method in STREAMED:
                list(channel.stream_stream(method)(iter([message]), timeout=PATIENCE_S))
            elif method.endswith("/Watch"):
                next(iter(channel.unary_stream(method)(message, timeout=PATIENCE_S)))
            else:
                channel.unary_unary(method)(message, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined,no-any-return]
    return grpc.StatusCode.OK
