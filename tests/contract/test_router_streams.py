"""Several prompts in one call, and answers in parts: previews of what is made again by the heavy model."""

from __future__ import annotations

import base64
import io
import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from support.redis import RedisServer
from support.router import EASY, HARD, RouterProcess, StartRouter, inputs_of, make_plan, on_hold
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

VARIANTS = ("shapes-light", "shapes-heavy")


def prompts_of(*prompts: str, seeds: list[int] | None = None, column: bool = False) -> list[triton.InferInput]:
    """KServe inputs of several prompts, of shape [N] or [N, 1]."""
    shape = [len(prompts), 1] if column else [len(prompts)]
    inputs = [triton.InferInput("prompt", shape, "BYTES")]
    inputs[0].set_data_from_numpy(np.array([p.encode() for p in prompts], dtype=np.object_).reshape(shape))
    if seeds is not None:
        inputs.append(triton.InferInput("seed", shape, "INT64"))
        inputs[1].set_data_from_numpy(np.array(seeds, dtype=np.int64).reshape(shape))
    return inputs


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


class Stream:
    """A stream of the Triton client; answers by order of arrival."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self.client = client
        self.arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def ask(self, prompt: str, *, request_id: str, **options: Any) -> None:
        self.client.async_stream_infer("shapes", inputs_of(prompt, seed=1), request_id=request_id, **options)

    def next(self) -> tuple[Any, Any]:
        return self.arrived.get(timeout=PATIENCE_S)

    def next_image(self) -> tuple[str, str, str, bool, np.ndarray]:
        """Id, stage and route of the next image, whether it is the last of its request, and the image."""
        result, error = self.next()
        assert error is None, error
        response = result.get_response()
        stage, route = (result.as_numpy(name)[0].decode() for name in ("stage", "route"))
        last = response.parameters["triton_final_response"].bool_param
        return response.id, stage, route, last, result.as_numpy("image")


@contextmanager
def stream_to(router: RouterProcess) -> Iterator[Stream]:
    with triton.InferenceServerClient(router.grpc) as client:
        stream = Stream(client)
        client.start_stream(lambda result, error: stream.arrived.put((result, error)))
        yield stream


@pytest.fixture
def escalating(redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    """A router that escalates every light image and sends hard prompts direct."""
    endpoints = {variant: [shared_triton.endpoint] for variant in VARIANTS}
    plan = make_plan(endpoints, direct=0.5, escalation=1, seed_thresholds={"hardness": 2.0, "confidence": 1.0})
    return start_router(redis_server, plan)


def test_several_prompts_in_one_call_are_answered_as_if_asked_one_by_one(fresh_router: RouterProcess) -> None:
    asked = [(EASY, 3), (HARD, 4), (EASY, 5)]
    result = fresh_router.client.infer(
        "shapes", prompts_of(*(prompt for prompt, _ in asked), seeds=[seed for _, seed in asked]), request_id="three"
    )
    images, routes = result.as_numpy("image"), [route.decode() for route in result.as_numpy("route")]
    assert images.shape == (3, 32, 32, 3)
    assert routes == ["light", "direct", "light"]
    assert result.get_response().id == "three"
    for image, (prompt, seed) in zip(images, asked, strict=True):
        assert levels_apart(image, fresh_router.ask(prompt, seed=seed).image) <= 1


def test_a_column_of_prompts_gives_columns_back(shared_router: RouterProcess) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("image", "image_encoded", "route", "confidence")]
    result = shared_router.client.infer("shapes", prompts_of(EASY, EASY, column=True), outputs=outputs)
    assert result.as_numpy("image").shape == (2, 32, 32, 3)
    for name in ("image_encoded", "route", "confidence"):
        assert result.as_numpy(name).shape == (2, 1)
    pictures = [np.asarray(Image.open(io.BytesIO(png))) for png in result.as_numpy("image_encoded")[:, 0]]
    assert all(map(np.array_equal, pictures, result.as_numpy("image")))


def test_one_prompt_that_cannot_be_drawn_refuses_the_whole_call(shared_router: RouterProcess) -> None:
    with pytest.raises(InferenceServerException, match="did not understand 'purple'") as refused:
        shared_router.client.infer("shapes", prompts_of(EASY, "a purple dragon"))
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    wait_for(lambda: "cascade_requests_in_hand 0.0" in shared_router.get("/metrics").text, what="the other to end")


def test_a_stream_shows_the_light_image_while_the_heavy_one_is_made(escalating: RouterProcess) -> None:
    with stream_to(escalating) as stream:
        stream.ask(EASY, request_id="one")
        preview, final = stream.next_image(), stream.next_image()
        stream.ask(HARD, request_id="two")
        direct = stream.next_image()
    assert preview[:4] == ("one", "preview", "light", False)
    assert final[:4] == ("one", "final", "escalated", True)
    assert direct[:4] == ("two", "final", "direct", True)
    assert levels_apart(preview[4], final[4]) > 1
    assert levels_apart(final[4], escalating.ask(EASY).image) <= 1


def test_a_refusal_is_told_in_the_stream_which_goes_on(escalating: RouterProcess) -> None:
    with stream_to(escalating) as stream:
        stream.ask("a purple dragon", request_id="bad")
        _, error = stream.next()
        assert "[StatusCode.INVALID_ARGUMENT] prompt: did not understand 'purple'" in str(error)
        stream.client.async_stream_infer("nothing", inputs_of(EASY))
        _, error = stream.next()
        assert "[StatusCode.NOT_FOUND]" in str(error)
        stream.ask(HARD, request_id="good")
        assert stream.next_image()[:2] == ("good", "final")


def test_a_stream_with_more_requests_than_are_served_at_once_answers_all(escalating: RouterProcess) -> None:
    names = {f"n{index}" for index in range(100)}
    with stream_to(escalating) as stream:
        for name in names:
            stream.ask(EASY, request_id=name)
        left = set(names)
        while left:
            name, _, _, last, _ = stream.next_image()
            if last:
                left.remove(name)  # raises KeyError for a second final answer


def test_a_client_that_leaves_its_stream_stops_the_work(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    endpoints = {variant: [shared_triton.endpoint] for variant in VARIANTS}
    router = start_router(redis_server, make_plan(endpoints, direct=1, batch=1, overload="strict"))
    router.ask(EASY)

    def in_hand(count: int) -> bool:
        return f"cascade_requests_in_hand {count}.0" in router.get("/metrics").text

    with on_hold(shared_triton), stream_to(router) as stream:
        for index in range(3):
            stream.ask(EASY, request_id=str(index))
        wait_for(lambda: in_hand(3), what="the three to be under way")
        stream.client.stop_stream(cancel_requests=True)
        wait_for(lambda: in_hand(0), what="the three to be withdrawn")
    assert 'reason="Cancelled"} 3.0' in router.get("/metrics").text
    assert "Traceback" not in router.log.read_text()


def events(router: RouterProcess, **body: Any) -> list[dict[str, Any]]:
    """The server-sent events that answer a request for images."""
    with httpx.stream(
        "POST", router.http_url + "/v1/images/generations", json={"stream": True, **body}, timeout=PATIENCE_S
    ) as reply:
        text = reply.read().decode()
    assert reply.headers["content-type"].startswith("text/event-stream"), text
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    content = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name.removeprefix("event: ") for name, _ in blocks] == [event["type"] for event in content]
    return content


def test_http_streams_a_partial_image_and_the_completed_one(escalating: RouterProcess) -> None:
    partial, completed = events(escalating, prompt=EASY, seed=1, partial_images=1)
    assert (partial["type"], partial["partial_image_index"]) == ("image_generation.partial_image", 0)
    assert (completed["type"], completed["route"]) == ("image_generation.completed", "escalated")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(completed["b64_json"]))))
    assert levels_apart(picture, escalating.ask(EASY).image) <= 1
    assert [event["route"] for event in events(escalating, prompt=HARD, partial_images=2)] == ["direct"]
    assert [event["route"] for event in events(escalating, prompt=EASY)] == ["escalated"]


def test_http_streams_several_images_each_when_it_is_there(escalating: RouterProcess) -> None:
    told = events(escalating, prompt=EASY, seed=1, n=3, partial_images=1)
    for kind in ("partial_image", "completed"):
        of_kind = {event["image_index"]: event for event in told if event["type"] == f"image_generation.{kind}"}
        assert sorted(of_kind) == [0, 1, 2]
        assert len({event["b64_json"] for event in of_kind.values()}) == 3
    for index in range(3):
        own = [event["type"].rpartition(".")[2] for event in told if event["image_index"] == index]
        assert own == ["partial_image", "completed"]
    picture = next(e["b64_json"] for e in told if (e["type"], e["image_index"]) == ("image_generation.completed", 2))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
    assert levels_apart(image, escalating.ask(EASY, seed=3).image) <= 1


def test_a_grpc_stream_shows_previews_of_each_of_several_prompts(escalating: RouterProcess) -> None:
    with stream_to(escalating) as stream:
        stream.client.async_stream_infer("shapes", prompts_of(EASY, HARD, EASY, seeds=[1, 2, 3]), request_id="three")
        shown = {}
        for _ in range(2):
            result, error = stream.next()
            assert error is None
            assert result.as_numpy("stage")[0] == b"preview"
            shown[result.get_response().parameters["image_index"].int64_param] = result.as_numpy("image").shape
        result, error = stream.next()
    assert shown == {0: (32, 32, 3), 2: (32, 32, 3)}
    assert result.as_numpy("image").shape == (3, 32, 32, 3)
    assert result.get_response().parameters["triton_final_response"].bool_param


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"partial_images": 4}, 400, "partial_images: 4 is not between 0 and 3"),
        ({"stream": "yes"}, 400, "stream: must be true or false"),
        ({"stream": False, "partial_images": 1}, 400, "partial_images: needs `stream`"),
        ({"prompt": "a purple dragon"}, 400, "did not understand 'purple'"),
        ({"deadline_ms": 1}, 504, "needs about"),
    ],
)
def test_what_cannot_be_streamed_is_refused_with_a_status(
    shared_router: RouterProcess, body: dict[str, Any], status: int, said: str
) -> None:
    reply = shared_router.post({"prompt": EASY, "stream": True, **body})
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]
