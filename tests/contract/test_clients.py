"""Clients of other projects work unchanged: KServe's, PyTriton's, Triton's and OpenAI's, from their own packages."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone

import pytest

from support.foreign_clients import found_by, run_client, start_client
from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, make_plan, on_hold
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

PNG, JPEG, WEBP = "89504e47", "ffd8ff", "52494646"
SIDE = 32


@pytest.fixture
def router(redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    """Every prompt is escalated, so that streams have a preview."""
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    plan = make_plan(replicas, direct=0, escalation=1, overload="strict", execution_s=SECONDS)
    return start_router(redis_server, plan)


def under_way(router: RouterProcess, count: int) -> None:
    line = f"cascade_requests_in_hand {count}.0"
    wait_for(lambda: line in router.get("/metrics").text, what=f"{count} requests to be under way")


def test_kserve(router: RouterProcess) -> None:
    found = run_client("kserve_client", router.grpc)
    assert found["ready"] == [True, True, True]
    made = found["made"]
    for name in ("numpy", "seeded", "typed"):
        assert (made[name]["image"], made[name]["route"]) == ([SIDE, SIDE, 3], ["escalated"])
    assert (made["two"]["id"], made["two"]["image"]) == ("my two cats", [2, SIDE, SIDE, 3])
    assert made["custom"]["route"] == ["escalated"]


def test_two_processes_of_pytriton_that_count_from_0(router: RouterProcess, sleeper_triton: TritonServer) -> None:
    router.ask("a cat")
    with on_hold(sleeper_triton):
        clients = [start_client("pytriton_client", router.grpc, "12") for _ in range(2)]
        under_way(router, 2)
    for found in map(found_by, clients):
        assert (found["inputs"], found["batch"]) == (["prompt", "negative_prompt", "seed"], 10)
        assert found["images"] == [[SIDE, SIDE, 3]] * 12
        assert found["files"] == [PNG] * 12
        assert (found["two"], found["routes"]) == ([2, SIDE, SIDE, 3], ["escalated"] * 2)


def test_tritons(router: RouterProcess) -> None:
    found = run_client("triton_client", router.grpc)
    assert found["made"].pop("jpeg") == JPEG
    assert found["made"] == {name: [SIDE, SIDE, 3] for name in ("plain", "sequence", "patient", "custom")}
    assert set(found["streamed"]) == {"same"}
    assert found["server"] == "diffusion-cascade"
    assert "image_encoded" in found["outputs"]


def test_openai(router: RouterProcess) -> None:
    found = run_client("openai_client", router.http_url)
    made = found["made"]
    for name, count in {"plain": 1, "auto": 1, "high": 2, "old": 1, "nulls": 1, "ten": 10, "long": 1}.items():
        read = 77 if name == "long" else 2
        assert made[name] == {"images": [PNG] * count, "told": [f"{SIDE}x{SIDE}", "png", "opaque", read]}
    for name, begins in {"jpeg": JPEG, "webp": WEBP}.items():
        assert [item.startswith(begins) for item in made[name]["images"]] == [True]
        assert made[name]["told"][1] == name
    partial, completed = found["events"]
    assert [partial[:2], completed[:2]] == [
        ["image_generation.partial_image", "jpeg"],
        ["image_generation.completed", "jpeg"],
    ]
    assert partial[2].startswith(JPEG)
    assert completed[2].startswith(JPEG)
    assert found["refused"] == {
        "background": "background",
        "response_format": "response_format",
        "output_format": "output_format",
        "model": "UnknownModel",
    }
    assert found["listed"] == ["shapes"]
    issued = int(datetime(2026, 11, 20, 10, tzinfo=timezone.utc).timestamp())
    assert found["model"] == ["shapes", issued, "default"]


def test_three_curls_with_one_forwarded_id(router: RouterProcess, sleeper_triton: TritonServer) -> None:
    url = f"{router.http_url}/v1/images/generations"
    router.ask("a cat")
    command = [
        "curl", "--silent", "--noproxy", "*", "--max-time", str(PATIENCE_S), "--output", "/dev/null",
        "--write-out", "%{http_code} %header{x-request-id}", "--header", "x-request-id: 5d1c-trace",
        "--json", '{"prompt": "a cat"}', url,
    ]  # fmt: skip
    with on_hold(sleeper_triton):
        curls = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        under_way(router, 3)
    assert [curl.communicate(timeout=PATIENCE_S)[0] for curl in curls] == ["200 5d1c-trace"] * 3
