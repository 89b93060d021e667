"""Prompts in, images out: every route and every protocol, with a real Redis and a real Triton."""

from __future__ import annotations

import base64
import io
import math
import threading
import time
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from support.redis import RedisServer
from support.router import EASY, HARD, Made, RouterProcess, StartRouter, inputs_of, make_plan
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract


@pytest.fixture
def endpoints(shared_triton: TritonServer) -> dict[str, list[str]]:
    return {variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy", "shapes-slow")}


def test_an_easy_prompt_is_light_and_a_hard_one_direct(shared_router: RouterProcess) -> None:
    light, direct = shared_router.ask(EASY), shared_router.ask(HARD)
    assert (light.route, light.variant) == ("light", "shapes-light")
    assert (direct.route, direct.variant) == ("direct", "shapes-heavy")
    assert light.image.shape == direct.image.shape == (32, 32, 3)
    assert light.hardness < direct.hardness
    assert 0 <= light.confidence <= 1
    assert math.isnan(direct.confidence)


def test_a_seed_repeats_an_image(shared_router: RouterProcess) -> None:
    once, again = (shared_router.ask(HARD, seed=11).image for _ in range(2))
    assert np.abs(once.astype(int) - again.astype(int)).max() <= 1
    assert once.std() > 10


def test_an_unsure_light_image_is_escalated(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan(endpoints, direct=0, escalation=1))
    made = router.ask(EASY)
    assert (made.route, made.variant) == ("escalated", "shapes-heavy")
    assert 0 <= made.confidence <= 1


@pytest.mark.parametrize("direct", [0, 1])
def test_a_deadline_that_heavy_cannot_make_degrades_or_refuses(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, direct: int
) -> None:
    soft = make_plan(endpoints, name="soft", direct=direct, escalation=1, heavy="shapes-slow")
    hard = make_plan(endpoints, name="hard", direct=direct, escalation=1, heavy="shapes-slow", overload="strict")
    router = start_router(redis_server, soft, hard)
    made = router.ask(HARD, model="soft", parameters={"deadline_ms": 800})
    assert (made.route, made.variant) == ("degraded", "shapes-light")
    with pytest.raises(InferenceServerException, match="heavy model needs about") as refused:
        router.ask(HARD, model="default.hard", parameters={"deadline_ms": 800})
    assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_an_escalation_that_turns_out_too_slow_is_answered_with_the_light_image_in_time(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    believed = {"shapes-light": 0.004, "shapes-heavy": 0.05, "shapes-slow": 0.05}
    plan = make_plan(endpoints, direct=0, escalation=1, heavy="shapes-slow", batch=1, execution_s=believed)
    router = start_router(redis_server, plan)
    router.ask(EASY, parameters={"deadline_ms": 5000})
    made: list[tuple[Made, float]] = []

    def ask() -> None:
        began = time.monotonic()
        made.append((router.ask(EASY, parameters={"deadline_ms": 700}), time.monotonic() - began))

    # The first is cut short while it is being made, the second while it waits for the only credit.
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.route for answer, _ in made] == ["degraded", "degraded"]
    assert max(latency for _, latency in made) < 1.0


def test_every_output_can_be_asked_for_by_name(shared_router: RouterProcess) -> None:
    outputs = [triton.InferRequestedOutput("image_png"), triton.InferRequestedOutput("route")]
    result = shared_router.client.infer("shapes", inputs_of(EASY, seed=3), outputs=outputs)
    picture = Image.open(io.BytesIO(result.as_numpy("image_png")[0]))
    assert picture.size == (32, 32)
    assert result.as_numpy("image") is None
    assert np.abs(np.asarray(picture).astype(int) - shared_router.ask(EASY, seed=3).image).max() <= 1


def test_a_batch_dimension_in_is_a_batch_dimension_out(shared_router: RouterProcess) -> None:
    prompt = triton.InferInput("prompt", [1, 1], "BYTES")
    prompt.set_data_from_numpy(np.array([[EASY.encode()]], dtype=np.object_))
    result = shared_router.client.infer("default.shapes", [prompt])
    assert result.as_numpy("image").shape == (1, 32, 32, 3)
    assert result.as_numpy("route").shape == (1, 1)


def test_typed_tensor_contents_work_like_raw_ones_and_the_request_id_comes_back(shared_router: RouterProcess) -> None:
    request = service_pb2.ModelInferRequest(model_name="shapes", id="client-7")
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(EASY.encode())
    request.inputs.add(name="seed", datatype="INT64", shape=[1]).contents.int64_contents.append(5)
    request.inputs.add(name="negative_prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"")
    with grpc.insecure_channel(shared_router.grpc) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert (response.id, response.model_name, response.model_version) == ("client-7", "shapes", "1")
    assert response.raw_output_contents[0] == shared_router.ask(EASY, seed=5).image.tobytes()


async def test_the_asynchronous_triton_client_works(shared_router: RouterProcess) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(shared_router.grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("shapes", "1")
        assert not await client.is_model_ready("other")
        result = await client.infer("shapes", inputs_of(EASY))
        assert result.as_numpy("image").shape == (32, 32, 3)


def test_metadata_configuration_statistics_and_index_describe_the_cascade(shared_router: RouterProcess) -> None:
    client = shared_router.client
    assert client.get_server_metadata().name == "diffusion-cascade"
    metadata = client.get_model_metadata("shapes")
    assert {tensor.name: tensor.datatype for tensor in metadata.inputs}["prompt"] == "BYTES"
    assert list(metadata.outputs[0].shape) == [-1, 32, 32, 3]
    assert client.get_model_config("shapes").config.max_batch_size == 8
    before = client.get_inference_statistics("shapes").model_stats[0].inference_count
    shared_router.ask(EASY)
    assert client.get_inference_statistics().model_stats[0].inference_count == before + 1
    assert [(model.name, model.state) for model in client.get_model_repository_index().models] == [("shapes", "READY")]


def test_what_is_not_served_says_so(shared_router: RouterProcess) -> None:
    client = shared_router.client
    for call in (
        lambda: client.load_model("shapes"),
        lambda: client.unload_model("shapes"),
        lambda: client.register_system_shared_memory("region", "/region", 64),
        lambda: client.get_trace_settings(),
        lambda: client.get_log_settings(),
    ):
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
        assert len(refused.value.message()) > 10


def test_health_and_reflection_services_answer(shared_router: RouterProcess) -> None:
    with grpc.insecure_channel(shared_router.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        wait_for(
            lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1, what="health to be SERVING"
        )
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        ]
        listed, described = reflection.ServerReflectionInfo(iter(questions), timeout=5)
    assert "inference.GRPCInferenceService" in [service.name for service in listed.list_services_response.service]
    files = [FileDescriptorProto.FromString(data) for data in described.file_descriptor_response.file_descriptor_proto]
    assert any(service.name == "GRPCInferenceService" for file in files for service in file.service)


def test_openai_images_come_back_with_how_they_were_made(shared_router: RouterProcess) -> None:
    reply = shared_router.post({"model": "shapes", "prompt": EASY, "n": 2, "size": "32x32", "seed": 9})
    assert reply.status_code == 200, reply.text
    first, second = reply.json()["data"]
    assert (first["route"], first["variant"]) == ("light", "shapes-light")
    assert 0 <= first["confidence"] <= 1
    assert first["b64_json"] != second["b64_json"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["b64_json"]))))
    assert np.abs(picture.astype(int) - shared_router.ask(EASY, seed=9).image).max() <= 1
    direct = shared_router.post({"prompt": HARD}).json()["data"][0]
    assert (direct["route"], direct["confidence"]) == ("direct", None)


def test_health_readiness_models_page_and_metrics_over_http(shared_router: RouterProcess) -> None:
    shared_router.ask(EASY)
    assert shared_router.get("/healthz").text == "ok\n"
    assert shared_router.get("/readyz").text == "ready\n"
    assert [model["id"] for model in shared_router.get("/v1/models").json()["data"]] == ["shapes"]
    page = shared_router.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in page.text.replace("http://", "https://").split("<script>")[0]
    metrics = shared_router.get("/metrics").text
    assert 'cascade_answers_total{cascade="default/shapes",route="light",variant="shapes-light"}' in metrics
    assert 'cascade_planned_share{cascade="default/shapes",route="direct"} 0.4' in metrics


def test_two_requests_with_one_id_do_not_run_at_once(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan(endpoints, direct=1, heavy="shapes-slow"))
    answers: list[Any] = []
    router.client.async_infer(
        "shapes", inputs_of(EASY), callback=lambda result, error: answers.append(error or result), request_id="twin"
    )
    wait_for(lambda: "cascade_requests_in_hand 1.0" in router.get("/metrics").text, what="the first to be under way")
    with pytest.raises(InferenceServerException, match="'twin' is being served") as refused:
        router.ask(EASY, request_id="twin")
    assert refused.value.status() == "StatusCode.ALREADY_EXISTS"
    assert router.post({"prompt": EASY}, headers={"x-request-id": "twin"}).status_code == 409
    wait_for(lambda: answers, what="the first to be answered")
    assert Made(answers[0]).route == "direct"
    assert router.ask(EASY, request_id="twin").route == "direct"


def test_a_client_that_goes_away_stops_the_work(
    redis_server: RedisServer, shared_triton: TritonServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan(endpoints, direct=1, heavy="shapes-slow", batch=1))

    def cancelled() -> float:
        line = 'cascade_refusals_total{cascade="default/shapes",reason="Cancelled"} '
        return next((float(row[len(line) :]) for row in router.get("/metrics").text.splitlines() if line in row), 0)

    def credits_in_use() -> str | None:
        with redis_server.client() as client:
            return client.hget("cascade:{default/shapes}:credits:shapes-slow.cpu", "u:shapes-slow-0")  # type: ignore[return-value]

    def spent() -> tuple[int, float]:
        """Requests that the model is done with, and the seconds that it spent on them."""
        statistics = shared_triton.statistics("shapes-slow").inference_stats
        return statistics.success.count + statistics.fail.count, statistics.compute_infer.ns / 1e9

    stub = shared_triton.stub("shapes-slow")
    worked_s = stub.cpu_times().user
    before, began = spent()
    call = router.client.async_infer("shapes", inputs_of(EASY), callback=lambda result, error: None)
    wait_for(lambda: stub.cpu_times().user > worked_s + 0.05, what="the model to begin")
    assert credits_in_use() == "1"
    call.cancel()
    wait_for(lambda: cancelled() == 1, what="the cancellation to arrive")
    wait_for(lambda: credits_in_use() == "0", what="the credit to come back")
    wait_for(lambda: spent()[0] == before + 1, what="the model to stop")
    assert spent()[1] - began < 0.8  # an image takes more than a second
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(router.http_url + "/v1/images/generations", json={"prompt": EASY}, timeout=0.4)
    wait_for(lambda: cancelled() == 2, what="the HTTP client's disconnect to arrive")
    assert "Traceback" not in router.log.read_text()
    assert router.ask(EASY).route == "direct"
