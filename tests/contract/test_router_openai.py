"""Fields of OpenAI's images API beyond the prompt: what each of them does, and what the answer says about it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, make_plan
from support.sleepers import NOT_DRAWN, SECONDS
from support.triton import TritonServer

pytestmark = pytest.mark.contract


@pytest.fixture
def router(redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    """Every prompt is escalated, unless the client says otherwise."""
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    plan = make_plan(replicas, direct=0, escalation=1, overload="strict", execution_s=SECONDS)
    return start_router(redis_server, plan)


def images(router: RouterProcess, prompt: str = "a cat", **fields: Any) -> Any:
    reply = router.post({"prompt": prompt, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def route(made: Any) -> tuple[str, str]:
    return made["data"][0]["route"], made["quality"]


def test_the_quality_or_the_settings_choose_the_model(router: RouterProcess) -> None:
    assert route(images(router)) == ("escalated", "high")
    assert route(images(router, quality="low")) == ("light", "low")
    assert route(images(router, quality="high")) == ("direct", "high")
    for variant, steps in {"shapes-light": 2, "shapes-heavy": 24}.items():
        made = images(router, num_inference_steps=steps)
        assert (made["data"][0]["variant"], made["data"][0]["route"]) == (variant, "direct")
    assert router.ask("a cat", parameters={"tier": "low"}).route == "light"
    assert router.ask("a cat", parameters={"num_inference_steps": 2}).variant == "shapes-light"
    refused = router.post({"prompt": "a cat", "num_inference_steps": 7})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_inference_steps")
    assert "they take 2, 24" in refused.json()["error"]["message"]


def test_usage_has_the_tokens_that_were_read_and_the_workers_time(router: RouterProcess) -> None:
    made = images(router, n=2)
    both_s = sum(SECONDS.values())
    assert made["usage"]["input_tokens"] == made["usage"]["total_tokens"] == 2
    assert made["usage"]["input_tokens_details"] == {"text_tokens": 2, "image_tokens": 0}
    assert [0 < item["accelerator_seconds"] <= both_s + 1e-6 for item in made["data"]] == [True, True]
    total_s = sum(item["accelerator_seconds"] for item in made["data"])
    assert made["usage"]["accelerator_seconds"] == pytest.approx(total_s, abs=1e-5)
    light = images(router, quality="low")["usage"]["accelerator_seconds"]
    assert light == pytest.approx(SECONDS["shapes-light"], rel=0.01)
    asked = router.ask("a cat", parameters={"tier": "low"})
    assert asked.accelerator_s == pytest.approx(SECONDS["shapes-light"], rel=0.01)
    counted = 'cascade_accelerator_seconds_total{cascade="default/shapes",tenant="",tier="low",variant="shapes-light"}'
    assert counted in router.get("/metrics").text


def test_a_prompt_that_the_model_cuts_is_told(router: RouterProcess) -> None:
    long = images(router, "cat " * 8_000)
    assert long["data"][0]["prompt_cut"]
    assert long["usage"]["input_tokens"] == 77
    assert not images(router)["data"][0]["prompt_cut"]


def test_fields_without_effect_are_named_and_the_user_is_logged(router: RouterProcess) -> None:
    fields = {"prompt": "a cat", "style": "natural", "moderation": "auto", "user": "u-7"}
    reply = router.post({**fields, "deadline_ms": 1})
    assert reply.status_code == 504
    refusals = [json.loads(line) for line in router.log.read_text().splitlines() if '"refused"' in line]
    assert [line["user"] for line in refusals] == ["u-7"]
    reply = router.post(fields)
    assert (reply.status_code, reply.headers["cascade-ignored"]) == (200, "style, moderation")
    assert "cascade-ignored" not in router.post({"prompt": "a cat"}).headers


def test_an_image_that_is_not_made_is_told_and_the_others_are_there(router: RouterProcess) -> None:
    """The model draws nothing with the seed NOT_DRAWN, which the second image has."""
    made = images(router, n=3, seed=NOT_DRAWN - 1)
    assert [sorted(item) == ["error"] for item in made["data"]] == [False, True, False]
    assert made["data"][1]["error"]["code"] == "Invalid"
    assert made["quality"] == "high"
    reply = router.post({"prompt": "a cat", "n": 1, "seed": NOT_DRAWN})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "Invalid")
    text = router.get("/metrics").text
    assert 'cascade_refusals_total{cascade="default/shapes",reason="Invalid"} 2.0' in text
    assert 'cascade_answers_total{cascade="default/shapes",route="escalated",variant="shapes-heavy"} 2.0' in text


def test_a_stream_tells_of_a_missing_image_after_the_others(router: RouterProcess) -> None:
    reply = router.post({"prompt": "a cat", "n": 3, "seed": NOT_DRAWN - 1, "stream": True})
    told = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    *completed, last = map(json.loads, told)
    assert {event["image_index"] for event in completed} == {0, 2}
    assert (last["image_index"], last["error"]["code"]) == (1, "Invalid")
    assert reply.text.splitlines()[-3] == "event: error"
    alone = router.post({"prompt": "a cat", "seed": NOT_DRAWN, "stream": True})
    assert alone.status_code == 400


@pytest.mark.parametrize(("output", "begins"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_a_file_of_each_format_is_an_output(router: RouterProcess, output: str, begins: bytes) -> None:
    prompt = triton.InferInput("prompt", [1], "BYTES")
    prompt.set_data_from_numpy(np.array([b"a cat"], dtype=np.object_))
    names = [f"image_{output}", "image"]
    result = router.client.infer("shapes", [prompt], outputs=[triton.InferRequestedOutput(name) for name in names])
    assert result.as_numpy(names[0])[0].startswith(begins)
    assert result.as_numpy("image").shape == (32, 32, 3)
    both = [triton.InferRequestedOutput(name) for name in ("image_png", "image_webp")]
    with pytest.raises(InferenceServerException, match="image_png and image_webp cannot be had together"):
        router.client.infer("shapes", [prompt], outputs=both)
    assert not {"image_png", "image_jpeg"} & {each.name for each in router.client.get_model_metadata("shapes").outputs}


def test_over_grpc_who_reads_errors_gets_what_could_be_made(router: RouterProcess) -> None:
    prompt, seed = triton.InferInput("prompt", [2], "BYTES"), triton.InferInput("seed", [2], "INT64")
    prompt.set_data_from_numpy(np.array([b"a cat"] * 2, dtype=np.object_))
    seed.set_data_from_numpy(np.array([NOT_DRAWN - 1, NOT_DRAWN], dtype=np.int64))
    with pytest.raises(InferenceServerException, match=f"{NOT_DRAWN} is no seed"):
        router.client.infer("shapes", [prompt, seed])
    names = ("image", "image_encoded", "route", "confidence", "prompt_cut", "error")
    outputs = [triton.InferRequestedOutput(name) for name in names]
    result = router.client.infer("shapes", [prompt, seed], outputs=outputs)
    assert result.as_numpy("error").tolist() == [b"", f"Invalid: prompt: {NOT_DRAWN} is no seed for it".encode()]
    assert result.as_numpy("route").tolist() == [b"escalated", b""]
    assert result.as_numpy("image").any(axis=(1, 2, 3)).tolist() == [True, False]
    assert [file[:4] for file in result.as_numpy("image_encoded")] == [b"\x89PNG", b""]
    assert np.isnan(result.as_numpy("confidence")).tolist() == [False, True]
    assert result.as_numpy("prompt_cut").tolist() == [False, False]
