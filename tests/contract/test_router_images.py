"""Images of ordinary size: late ones count as late, bytes in hand are limited, and files come as models made them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import psutil
import pytest
import tritonclient.grpc as triton
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from cascade_api.plan import Plan
from cascade_api.settings import RouterSettings
from cascade_router.image_bytes import COPIES_GRPC, COPIES_HTTP
from cascade_router.main import Router
from cascade_router.serving.http_protocol import BoundedHttp
from support.redis import RedisServer
from support.retrying import message_of
from support.router import EASY, RouterProcess, StartRouter, inputs_of, make_plan, publish
from support.sleepers import write_sleepers
from support.triton import LIGHT, TritonServer
from support.waiting import PATIENCE_S, eventually, wait_for

pytestmark = pytest.mark.contract

LARGE, HUGE = 1024, 2048
SECONDS = {"shapes-light": 0.05}
PIXELS = HUGE * HUGE * 3
MIB = 1024 * 1024
READING = 4 * PIXELS
"""What one message takes for the moment in which it is read."""


@pytest.fixture(scope="module")
def noise_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, TritonServer]]:
    """A server for each size whose model draws noise."""
    directory, servers = tmp_path_factory.mktemp("noise"), {}
    try:
        for side in (LARGE, HUGE):
            models = write_sleepers(directory / str(side), SECONDS, batch=1, instances=1, side=side)
            servers[side] = TritonServer(models, directory, load=tuple(SECONDS), replica_id=f"test-noise-{side}")
            servers[side].start()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def plan_of(server: TritonServer, side: int, **changes: Any) -> Plan:
    options = {"direct": 0, "escalation": 0, "batch": 1, "execution_s": SECONDS, **changes}
    return make_plan({"shapes-light": [server.endpoint]}, size=f"{side}x{side}", **options)


def samples(router: RouterProcess) -> Counter[str]:
    """Metrics of the router by name, over all labels but the reason."""
    found = Counter[str]()
    for family in text_string_to_metric_families(router.get("/metrics").text):
        for sample in family.samples:
            found[f"{sample.name}{sample.labels.get('reason', '')}"] += sample.value
    return found


def late_by(router: RouterProcess, seconds: float) -> float:
    """Answers that the router counted as taking longer than a bucket's bound."""
    families = text_string_to_metric_families(router.get("/metrics").text)
    buckets = [s for family in families for s in family.samples if s.name == "cascade_latency_seconds_bucket"]
    return sum(
        s.value * (1 if s.labels["le"] == "+Inf" else -1 if float(s.labels["le"]) == seconds else 0) for s in buckets
    )


def asked_over_http(router: RouterProcess, **fields: Any) -> socket.socket:
    """A connection whose client has asked, and does not read."""
    host, _, port = router.http_url.removeprefix("http://").rpartition(":")
    return asked(host, int(port), **fields)


def asked(host: str, port: int, **fields: Any) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.connect((host, port))
    body = json.dumps({"model": "shapes", "prompt": EASY, **fields}).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    client.sendall(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    return client


def read_all(client: socket.socket) -> bytes:
    client.settimeout(PATIENCE_S)
    said = bytearray()
    while part := client.recv(1 << 20):
        said += part
    client.close()
    return bytes(said)


def test_files_come_as_the_model_made_them_in_every_protocol(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], start_router: StartRouter
) -> None:
    server = noise_triton[LARGE]
    router = start_router(redis_server, plan_of(server, LARGE))
    made = {name: (server.models / LIGHT / "1" / f"image.{name}").read_bytes() for name in ("png", "jpeg")}
    assert base64.b64decode(router.post({"prompt": EASY}).json()["data"][0]["b64_json"]) == made["png"]
    both = [base64.b64decode(item["b64_json"]) for item in router.post({"prompt": EASY, "n": 2}).json()["data"]]
    assert both == [made["png"]] * 2
    streamed = router.post({"prompt": EASY, "stream": True}).text
    event = json.loads(streamed.partition("data: ")[2])
    assert (base64.b64decode(event["b64_json"]), event["size"]) == (made["png"], "1024x1024")
    # A gRPC channel takes 4 MiB by default.
    outputs = [triton.InferRequestedOutput("image_encoded")]
    with triton.InferenceServerClient(router.grpc) as client:
        for name, file in made.items():
            result = client.infer("shapes", inputs_of(EASY), outputs=outputs, parameters={"image_format": name})
            assert result.as_numpy("image_encoded")[0] == file
    raw = router.client.infer("shapes", inputs_of(EASY)).as_numpy("image")
    assert (raw == Image.open(io.BytesIO(made["png"]))).all()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"image_format": "gif"}, "image_format: 'gif' is none of png, jpeg, webp"),
        ({"image_format": 1}, "image_format: must be text"),
        ({"image_quality": 0}, "image_quality: must be a whole number from 1 to 100"),
        ({"image_quality": "90"}, "image_quality"),
    ],
)
def test_a_wrong_form_is_named(shared_router: RouterProcess, parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InferenceServerException, match=field) as refused:
        shared_router.client.infer("shapes", inputs_of(EASY), parameters=parameters)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_model_is_asked_for_the_form_and_quality(shared_router: RouterProcess) -> None:
    outputs = [triton.InferRequestedOutput("image_encoded")]

    def size(**parameters: Any) -> int:
        asked = shared_router.client.infer("shapes", inputs_of(EASY, seed=1), outputs=outputs, parameters=parameters)
        file = asked.as_numpy("image_encoded")[0]
        assert (Image.open(io.BytesIO(file)).format or "").lower() == parameters.get("image_format", "png")
        return len(file)

    size()
    assert size(image_format="jpeg", image_quality=20) < size(image_format="jpeg", image_quality=95)
    assert size(image_format="webp", image_quality=20) < size(image_format="webp", image_quality=95)


async def test_more_than_fits_is_answered_in_time_or_counted_late_and_the_metrics_say_what_clients_saw(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], start_router: StartRouter
) -> None:
    router = start_router(redis_server, plan_of(noise_triton[LARGE], LARGE, overload="strict"))
    deadline_s, rate, count = 2.0, 60, 240
    seen: list[tuple[int, float, str]] = []

    async def ask(client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        body = {"prompt": EASY, "deadline_ms": deadline_s * 1000}
        answer = await client.post(f"{router.http_url}/v1/images/generations", json=body)
        seen.append((answer.status_code, time.monotonic() - began, answer.headers.get("cascade-reason", "")))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as client:
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.ensure_future(ask(client)))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*tasks)
    counted = samples(router)
    statuses, reasons = Counter(status for status, _, _ in seen), Counter(reason for *_, reason in seen if reason)
    assert statuses[200] == counted["cascade_answers_total"] == counted["cascade_latency_seconds_count"] > 0
    assert set(statuses) <= {200, 429, 504}
    assert {reason: counted[f"cascade_refusals_total{reason}"] for reason in reasons} == reasons
    refused, late = sum(reasons.values()), counted["cascade_violations_total"] - sum(reasons.values())
    assert refused + statuses[200] == count
    # What the client needs to read is its own; what takes the router so long is counted.
    much_too_late = sum(status == 200 and took > 2 * deadline_s for status, took, _ in seen)
    assert much_too_late <= late, sorted(took for status, took, _ in seen if status == 200)[-5:]
    assert counted["cascade_image_bytes"] == 0


def test_an_answer_that_is_read_too_late_is_counted_late(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], start_router: StartRouter
) -> None:
    router = start_router(redis_server, plan_of(noise_triton[HUGE], HUGE))
    client = asked_over_http(router, deadline_ms=5000)
    wait_for(lambda: samples(router)["cascade_stage_service_seconds_count"] == 1, what="the image to be made")
    time.sleep(5.5)
    assert samples(router)["cascade_answers_total"] == 0, "nobody has read it"
    assert read_all(client).startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: samples(router)["cascade_answers_total"] == 1, what="the answer to be counted")
    assert samples(router)["cascade_violations_total"] == 1
    assert late_by(router, 5.0) == 1


CALL = """
import sys, time
import tritonclient.grpc as triton
from support.router import EASY, inputs_of
client = triton.InferenceServerClient(sys.argv[1])
print("asks", flush=True)
for _ in range(int(sys.argv[2])):
    client.async_infer("shapes", inputs_of(EASY), print, parameters={"deadline_ms": int(sys.argv[3])})
time.sleep(1000)
"""


@contextmanager
def calling(router: RouterProcess, *, count: int, deadline_s: float) -> Iterator[subprocess.Popen[str]]:
    """A client process that asks a router for images over gRPC."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", CALL, router.grpc, str(count), str(round(deadline_s * 1000))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "asks\n"
            yield process
        finally:
            process.kill()


def test_so_is_one_over_grpc(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], start_router: StartRouter
) -> None:
    router = start_router(redis_server, plan_of(noise_triton[HUGE], HUGE))
    with calling(router, count=1, deadline_s=5) as client:
        wait_for(lambda: samples(router)["cascade_requests_total"] == 1, what="the call to come")
        client.send_signal(signal.SIGSTOP)
        wait_for(lambda: samples(router)["cascade_stage_service_seconds_count"] == 1, what="the image to be made")
        time.sleep(5.5)
        assert samples(router)["cascade_answers_total"] == 0, "nobody has read it"
        client.send_signal(signal.SIGCONT)
        wait_for(lambda: samples(router)["cascade_answers_total"] == 1, what="the answer to be counted")
        assert samples(router)["cascade_violations_total"] == 1


async def all_at_once(router: RouterProcess, protocol: str, count: int) -> tuple[list[Any], int]:
    """What so many images at once are answered, and the most memory that the router had meanwhile."""
    assert router.process is not None
    process, most = psutil.Process(router.process.pid), 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.02)

    watching = asyncio.ensure_future(watch())
    try:
        if protocol == "http":
            async with httpx.AsyncClient(timeout=PATIENCE_S, limits=httpx.Limits(max_connections=None)) as client:

                async def post() -> int:
                    body = {"prompt": EASY, "deadline_ms": PATIENCE_S * 1000}
                    async with client.stream("POST", f"{router.http_url}/v1/images/generations", json=body) as answer:
                        size = sum([len(part) async for part in answer.aiter_bytes()])
                        return size if answer.status_code == 200 else -answer.status_code

                return await asyncio.gather(*(post() for _ in range(count))), most
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(router.grpc, options=options) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

            async def infer() -> int:
                answer = await call(message_of(deadline_ms=round(PATIENCE_S * 1000)))
                return len(answer.raw_output_contents[0])

            return await asyncio.gather(*(infer() for _ in range(count))), most
    finally:
        watching.cancel()


@pytest.mark.parametrize(("protocol", "count"), [("http", 50), ("grpc", 100)])
async def test_bytes_in_hand_are_bounded_however_many_images_are_asked_for_at_once(
    redis_server: RedisServer,
    noise_triton: dict[int, TritonServer],
    start_router: StartRouter,
    protocol: str,
    count: int,
) -> None:
    limit = 160 * MIB
    router = await asyncio.to_thread(
        start_router, redis_server, plan_of(noise_triton[HUGE], HUGE), image_bytes_limit=limit
    )
    assert router.process is not None
    before = psutil.Process(router.process.pid).memory_info().rss
    sizes, most = await all_at_once(router, protocol, count)
    assert all(size >= PIXELS for size in sizes)
    assert most - before < limit + READING, f"{(most - before) / MIB:.0f} MiB more"
    counted = await asyncio.to_thread(samples, router)
    assert counted["cascade_answers_total"] == count
    assert counted["cascade_image_bytes"] == 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_also_where_nobody_reads_and_then_others_are_refused_in_time(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], start_router: StartRouter, protocol: str
) -> None:
    copies, fit = (COPIES_HTTP, 9) if protocol == "http" else (COPIES_GRPC, 6)
    limit = int(copies * fit * PIXELS) + MIB
    router = await asyncio.to_thread(
        start_router, redis_server, plan_of(noise_triton[HUGE], HUGE), image_bytes_limit=limit
    )
    assert router.process is not None
    process = psutil.Process(router.process.pid)
    before = process.memory_info().rss

    async def all_made() -> bool:
        return (await asyncio.to_thread(samples, router))["cascade_stage_service_seconds_count"] == fit

    def refused() -> httpx.Response:
        return router.post({"prompt": EASY, "deadline_ms": 300})

    if protocol == "http":
        clients = [asked_over_http(router, deadline_ms=PATIENCE_S * 1000) for _ in range(fit)]
        await eventually(all_made, what="all images to be made")
        answer = await asyncio.to_thread(refused)
        for client in clients:
            client.close()
    else:
        with calling(router, count=fit, deadline_s=PATIENCE_S) as caller:
            await eventually(lambda: samples(router)["cascade_requests_total"] == fit, what="the calls to come")
            caller.send_signal(signal.SIGSTOP)
            await eventually(all_made, what="all images to be made")
            answer = await asyncio.to_thread(refused)
    assert process.memory_info().rss - before < limit + READING
    assert (answer.status_code, answer.headers["cascade-reason"]) == (429, "QueueFull")
    assert "CASCADE_ROUTER_IMAGE_BYTES_LIMIT" in answer.json()["error"]["message"]
    assert "retry-after" in answer.headers

    async def room_again() -> bool:
        return (await asyncio.to_thread(router.post, {"prompt": EASY})).status_code == 200

    await eventually(room_again, what="room to be given back")


def test_a_call_that_never_fits_is_refused_by_name(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], start_router: StartRouter
) -> None:
    router = start_router(redis_server, plan_of(noise_triton[HUGE], HUGE), image_bytes_limit=64 * MIB)
    assert router.post({"prompt": EASY}).status_code == 200
    refused = router.post({"prompt": EASY, "n": 4})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")


async def test_who_does_not_read_is_let_go(
    redis_server: RedisServer, noise_triton: dict[int, TritonServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttp, "read_s", 0.5)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    await asyncio.to_thread(publish, redis_server, plan_of(noise_triton[HUGE], HUGE))
    settings = RouterSettings(grpc_address="127.0.0.1:0", http_address="127.0.0.1:0")
    async with Router(settings).running() as router:
        await eventually(lambda: router.service.why_not_ready() is None, what="the router to be ready")
        host, _, port = router.http_address.rpartition(":")
        client = asked(host, int(port))
        await eventually(lambda: router.service.image_bytes.held > 0, what="the image to be asked for")
        await eventually(lambda: router.service.image_bytes.held == 0, what="its room to be given back")
        read = 0
        with contextlib.suppress(ConnectionResetError):
            read = len(await asyncio.to_thread(read_all, client))
        assert read < PIXELS, "all of it came"
