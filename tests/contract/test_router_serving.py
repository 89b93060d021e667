"""Prompts in, images out: every route and every protocol, with a real Redis and a real Triton."""

from __future__ import annotations

import asyncio
import base64
import io
import math
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from cascade_api.names import CascadeRef
from support.redis import RedisServer
from support.router import EASY, HARD, RouterProcess, StartRouter, inputs_of, make_plan
from support.scripted_triton import ScriptedTriton, answer, hang
from support.triton import TritonServer
from support.waiting import PATIENCE_S, eventually, wait_for

pytestmark = pytest.mark.contract

SHAPES = CascadeRef("default", "shapes")


@pytest.fixture
def endpoints(shared_triton: TritonServer) -> dict[str, list[str]]:
    return {variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")}


def test_an_easy_prompt_is_light_and_a_hard_one_direct(fresh_router: RouterProcess) -> None:
    light, direct = fresh_router.ask(EASY), fresh_router.ask(HARD)
    assert (light.route, light.variant) == ("light", "shapes-light")
    assert (direct.route, direct.variant) == ("direct", "shapes-heavy")
    assert light.image.shape == direct.image.shape == (32, 32, 3)
    assert light.hardness < direct.hardness
    assert 0 <= light.confidence <= 1
    assert math.isnan(direct.confidence)


def test_a_seed_repeats_an_image(fresh_router: RouterProcess) -> None:
    once, again = (fresh_router.ask(HARD, seed=11).image for _ in range(2))
    assert np.abs(once.astype(int) - again.astype(int)).max() <= 1
    assert once.std() > 10


def test_an_unsure_light_image_is_escalated(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan(endpoints, direct=0, escalation=1, overload="strict"))
    made = router.ask(EASY)
    assert (made.route, made.variant) == ("escalated", "shapes-heavy")
    assert 0 <= made.confidence <= 1


@pytest.mark.parametrize("direct", [0, 1])
def test_a_deadline_that_heavy_cannot_make_degrades_or_refuses(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, direct: int
) -> None:
    believed = {"shapes-light": 0.004, "shapes-heavy": 2 * PATIENCE_S}
    options: dict[str, Any] = {"direct": direct, "escalation": 1, "execution_s": believed}
    soft = make_plan(endpoints, name="soft", **options)
    hard = make_plan(endpoints, name="hard", overload="strict", **options)
    router = start_router(redis_server, soft, hard)
    made = router.ask(HARD, model="soft")
    assert (made.route, made.variant) == ("degraded", "shapes-light")
    with pytest.raises(InferenceServerException, match="heavy model needs about") as refused:
        router.ask(HARD, model="default.hard")
    assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_every_output_can_be_asked_for_by_name(fresh_router: RouterProcess) -> None:
    outputs = [triton.InferRequestedOutput("image_encoded"), triton.InferRequestedOutput("route")]
    result = fresh_router.client.infer("shapes", inputs_of(EASY, seed=3), outputs=outputs)
    picture = Image.open(io.BytesIO(result.as_numpy("image_encoded")[0]))
    assert picture.size == (32, 32)
    assert result.as_numpy("image") is None
    assert np.abs(np.asarray(picture).astype(int) - fresh_router.ask(EASY, seed=3).image).max() <= 1


def test_a_batch_dimension_in_is_a_batch_dimension_out(shared_router: RouterProcess) -> None:
    prompt = triton.InferInput("prompt", [1, 1], "BYTES")
    prompt.set_data_from_numpy(np.array([[EASY.encode()]], dtype=np.object_))
    result = shared_router.client.infer("default.shapes", [prompt])
    assert result.as_numpy("image").shape == (1, 32, 32, 3)
    assert result.as_numpy("route").shape == (1, 1)


def test_typed_tensor_contents_work_like_raw_ones_and_the_request_id_comes_back(fresh_router: RouterProcess) -> None:
    request = service_pb2.ModelInferRequest(model_name="shapes", id="client-7")
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(EASY.encode())
    request.inputs.add(name="seed", datatype="INT64", shape=[1]).contents.int64_contents.append(5)
    request.inputs.add(name="negative_prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"")
    with grpc.insecure_channel(fresh_router.grpc) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENCE_S)
    assert (response.id, response.model_name, response.model_version) == ("client-7", "shapes", "1")
    assert response.raw_output_contents[0] == fresh_router.ask(EASY, seed=5).image.tobytes()


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
    assert client.get_model_config("shapes").config.max_batch_size == 10
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


def test_the_health_service_answers(shared_router: RouterProcess) -> None:
    with grpc.insecure_channel(shared_router.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        question = health_pb2.HealthCheckRequest()
        wait_for(lambda: health.Check(question, timeout=PATIENCE_S).status == 1, what="health to be SERVING")


@pytest.mark.parametrize(
    "reflection", ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
)
def test_reflection_lists_and_describes_every_service(shared_router: RouterProcess, reflection: str) -> None:
    request = reflection_pb2.ServerReflectionRequest
    with grpc.insecure_channel(shared_router.grpc) as channel:
        ask = channel.stream_stream(
            f"/{reflection}/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (listed,) = ask(iter([request(list_services="")]), timeout=PATIENCE_S)
        services = [service.name for service in listed.list_services_response.service]
        described = list(
            ask(iter([request(file_containing_symbol=service) for service in services]), timeout=PATIENCE_S)
        )
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health", reflection} <= set(services)
    for service, reply in zip(services, described, strict=True):
        files = map(FileDescriptorProto.FromString, reply.file_descriptor_response.file_descriptor_proto)
        assert service in [f"{file.package}.{each.name}" for file in files for each in file.service]


def test_openai_images_come_back_with_how_they_were_made(fresh_router: RouterProcess) -> None:
    reply = fresh_router.post({"model": "shapes", "prompt": EASY, "n": 2, "size": "32x32", "seed": 9})
    assert reply.status_code == 200, reply.text
    first, second = reply.json()["data"]
    assert (first["route"], first["variant"]) == ("light", "shapes-light")
    assert 0 <= first["confidence"] <= 1
    assert first["b64_json"] != second["b64_json"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["b64_json"]))))
    assert np.abs(picture.astype(int) - fresh_router.ask(EASY, seed=9).image).max() <= 1
    direct = fresh_router.post({"prompt": HARD}).json()["data"][0]
    assert (direct["route"], direct["confidence"]) == ("direct", None)


def test_health_readiness_models_page_and_metrics_over_http(fresh_router: RouterProcess) -> None:
    fresh_router.ask(EASY)
    assert fresh_router.get("/healthz").text == "ok\n"
    assert fresh_router.get("/readyz").text == "ready\n"
    assert [model["id"] for model in fresh_router.get("/v1/models").json()["data"]] == ["shapes"]
    page = fresh_router.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in page.text.replace("http://", "https://").split("<script>")[0]
    metrics = fresh_router.get("/metrics").text
    assert 'cascade_answers_total{cascade="default/shapes",route="light",variant="shapes-light"}' in metrics
    assert 'cascade_planned_share{cascade="default/shapes",route="direct"} 0.4' in metrics


def test_cascades_of_one_name_are_listed_by_names_that_can_be_asked_for(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    plans = make_plan(endpoints), make_plan(endpoints, cascade="other/shapes"), make_plan(endpoints, name="alone")
    router = start_router(redis_server, *plans)
    names = {"default.shapes": "default", "other.shapes": "other", "alone": "default"}
    listed = router.get("/v1/models").json()["data"]
    assert {model["id"]: model["owned_by"] for model in listed} == names
    assert {model.name for model in router.client.get_model_repository_index().models} == set(names)
    for model in listed:
        assert router.get(f"/v1/models/{model['id']}").json() == model
        assert router.ask(EASY, model=model["id"]).route
    assert router.get("/v1/models/shapes").status_code == 400
    assert router.get("/v1/models/dall-e").json()["error"]["code"] == "UnknownModel"


async def test_a_client_that_goes_away_stops_the_work(redis_server: RedisServer, start_router: StartRouter) -> None:
    async with ScriptedTriton() as replica:
        plan = make_plan({"shapes-light": [], "shapes-heavy": [replica.endpoint]}, direct=1, batch=1)
        router = await asyncio.to_thread(start_router, redis_server, plan)
        await asyncio.to_thread(router.ask, EASY)
        replica.behaviour = hang()
        replica.asked.clear()

        async def cancelled(count: int) -> bool:
            line = f'cascade_refusals_total{{cascade="default/shapes",reason="Cancelled"}} {count}.0'
            return line in (await asyncio.to_thread(router.get, "/metrics")).text

        def credits_in_use() -> str:
            with redis_server.client() as client:
                return str(client.hget(SHAPES.credits_key("shapes-heavy.cpu"), "u:shapes-heavy-0"))

        call = router.client.async_infer("shapes", inputs_of(EASY), callback=lambda result, error: None)
        await eventually(lambda: replica.asked, what="the model to begin")
        await eventually(lambda: credits_in_use() == "1", what="the credit to be taken")
        call.cancel()
        await eventually(lambda: replica.cancelled == 1, what="the model to hear of it")
        await eventually(lambda: cancelled(1), what="the cancellation to be counted")
        await eventually(lambda: credits_in_use() == "0", what="the credit to come back")

        asking = httpx.AsyncClient(timeout=PATIENCE_S)
        url = router.http_url + "/v1/images/generations"
        task = asyncio.ensure_future(asking.post(url, json={"prompt": EASY}))
        await eventually(lambda: len(replica.asked) == 2, what="the next to begin")
        task.cancel()
        await asking.aclose()
        await eventually(lambda: replica.cancelled == 2, what="the model to hear of it again")
        await eventually(lambda: cancelled(2), what="the HTTP client's disconnect to be counted")

        replica.behaviour = answer()
        assert (await asyncio.to_thread(router.ask, EASY)).route == "direct"
    assert "Traceback" not in router.log.read_text()
