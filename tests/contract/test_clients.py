"""Clients of other projects work unchanged: KServe's, PyTriton's, Triton's, OpenAI's, LiteLLM, from their own packages.

What each test tries is a row of docs/reference/clients.md. After a wanted change, run with UPDATE_GOLDEN=1.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.foreign_clients import found_by, run_client, start_client
from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, make_plan, on_hold
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "clients.lock"
TABLE = ROOT / "docs" / "reference" / "clients.md"
HEADER = """# Clients that were tried

These clients of other projects work unchanged. Tests run the calls below with the versions below against a router, and
write this page. Clients that speak the same protocols in the same way should work, too.

| client | version | protocol | calls that work |
|---|---|---|---|
"""
_rows: list[tuple[str, str, str]] = []

PNG, JPEG, WEBP = "89504e47", "ffd8ff", "52494646"
SIDE = 32
INPUTS = ["prompt", "negative_prompt", "seed", "width", "height"]


def tries(client: str, protocol: str, calls: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Notes that a test tries these calls of a client, a package of the lock if it is not on the machine."""

    def note(test: Callable[..., Any]) -> Callable[..., Any]:
        _rows.append((client, protocol, calls))
        return test

    return note


def table() -> str:
    versions = dict(re.findall(r"^([a-z-]+)==(\S+)", LOCK.read_text(), flags=re.MULTILINE))
    rows = (
        f"| {client} | {versions.get(client.partition(' ')[0], 'any')} | {protocol} | {calls} |\n"
        for client, protocol, calls in _rows
    )
    return HEADER + "".join(rows)


def test_the_table_of_clients_is_what_is_tried_here() -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        TABLE.write_text(table())
    assert table() == TABLE.read_text(), f"docs/reference/clients.md is another; see the docstring of {__name__}"


@pytest.fixture
def router(redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    """Every prompt is escalated, so that streams have a preview."""
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    plan = make_plan(replicas, direct=0, escalation=1, overload="strict", execution_s=SECONDS)
    return start_router(redis_server, plan)


def under_way(router: RouterProcess, count: int) -> None:
    line = f"cascade_requests_in_hand {count}.0"
    wait_for(lambda: line in router.get("/metrics").text, what=f"{count} requests to be under way")


@tries(
    "kserve (`InferenceGRPCClient`)",
    "KServe v2 over gRPC",
    "`is_server_live`, `is_server_ready`, `is_model_ready`, `infer` with one prompt or several, seeds, parameters and "
    "named outputs",
)
def test_kserve(router: RouterProcess) -> None:
    found = run_client("kserve_client", router.grpc)
    assert found["ready"] == [True, True, True]
    made = found["made"]
    for name in ("numpy", "seeded", "typed"):
        assert (made[name]["image"], made[name]["route"]) == ([SIDE, SIDE, 3], ["escalated"])
    assert (made["two"]["id"], made["two"]["image"]) == ("my two cats", [2, SIDE, SIDE, 3])
    assert made["custom"]["route"] == ["escalated"]


@tries(
    "nvidia-pytriton (`ModelClient`)",
    "KServe v2 over gRPC",
    "`model_config`, `infer_sample`, `infer_batch` with parameters; several processes at once, which all count from 0",
)
def test_two_processes_of_pytriton_that_count_from_0(router: RouterProcess, sleeper_triton: TritonServer) -> None:
    router.ask("a cat")
    with on_hold(sleeper_triton):
        clients = [start_client("pytriton_client", router.grpc, "12") for _ in range(2)]
        under_way(router, 2)
    for found in map(found_by, clients):
        assert (found["inputs"], found["batch"]) == (INPUTS, 10)
        assert found["images"] == [[SIDE, SIDE, 3]] * 12
        assert found["files"] == [PNG] * 12
        assert (found["two"], found["routes"]) == ([2, SIDE, SIDE, 3], ["escalated"] * 2)


@tries(
    "tritonclient (`tritonclient.grpc`)",
    "KServe v2 over gRPC",
    "`infer` with sequences, priorities, timeouts, parameters, headers and files as outputs; `start_stream`, "
    "`async_stream_infer`; `get_server_metadata`, `get_model_metadata`",
)
def test_tritons(router: RouterProcess) -> None:
    found = run_client("triton_client", router.grpc)
    assert found["made"].pop("jpeg") == JPEG
    assert found["made"] == {name: [SIDE, SIDE, 3] for name in ("plain", "sequence", "patient", "custom")}
    assert set(found["streamed"]) == {"same"}
    assert found["server"] == "diffusion-cascade"
    assert "image_encoded" in found["outputs"]


@tries(
    "tritonclient (`tritonclient.http`)",
    "KServe v2 over HTTP",
    "`infer` with bytes or JSON, versions, priorities, timeouts, parameters and files as outputs; `async_infer`; "
    "`is_server_live`, `is_server_ready`, `is_model_ready`, `get_server_metadata`, `get_model_metadata`, "
    "`get_model_config`, `get_model_repository_index`, `get_inference_statistics`",
)
def test_tritons_over_http(router: RouterProcess) -> None:
    found = run_client("triton_http_client", router.http_url.removeprefix("http://"))
    made = found["made"]
    for name in ("plain", "version"):
        assert (made[name]["image"], made[name]["route"]) == ([SIDE, SIDE, 3], ["escalated"])
    assert made["json"]["image"] == [SIDE, SIDE, 3]
    assert made["options"] == {"image": [SIDE, SIDE, 3], "route": ["light"], "id": "my cat"}
    assert (made["two"]["image"], made["two"]["route"]) == ([2, SIDE, SIDE, 3], ["escalated"] * 2)
    assert (found["jpeg"], found["later"]) == (JPEG, [SIDE, SIDE, 3])
    assert found["ready"] == [True, True, True]
    assert not found["unready"]
    assert (found["server"], found["index"], found["counted"]) == ("diffusion-cascade", ["shapes"], True)
    assert found["inputs"] == INPUTS
    assert (found["shape"], found["batch"]) == ([-1, SIDE, SIDE, 3], 10)
    assert found["refused"]["nothing"][0] == "404"
    assert found["refused"]["shapes"] == ["400", "prompt: is empty; describe the image in a few words"]


@tries(
    "kserve (`InferenceRESTClient`)",
    "KServe v2 over HTTP",
    "`is_server_live`, `is_server_ready`, `is_model_ready`, `infer` with JSON or bytes, both ways",
)
def test_kserves_over_http(router: RouterProcess) -> None:
    found = run_client("kserve_rest_client", router.http_url)
    assert found["ready"] == [True, True, True]
    assert found["made"] == {
        "json": {"image": [SIDE, SIDE, 3], "route": ["escalated"]},
        "binary": {"image": [2, SIDE, SIDE, 3], "route": ["escalated"] * 2},
        "named": {"image": None, "route": ["escalated"]},
    }


@tries(
    "litellm",
    "OpenAI images",
    "`image_generation` with `n`, `size`, `quality`, `user`, and more fields in `extra_body`",
)
def test_litellm(router: RouterProcess) -> None:
    assert run_client("litellm_client", router.http_url) == {"plain": [PNG], "several": [PNG] * 2, "extra": [PNG]}


@tries(
    "openai",
    "OpenAI images",
    "`images.generate` with all fields, answers checked strictly, also as a stream with partial images; `models.list`, "
    "`models.retrieve`",
)
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


@tries(
    "openai (`images.edit`)",
    "OpenAI images",
    "`images.edit` with one image as a path, bytes or a list, a mask, all fields and more in `extra_body`, also as a "
    "stream with partial images",
)
def test_openai_edits(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter, tmp_path: Path
) -> None:
    variants = ("shapes-light", "shapes-heavy")
    replicas = {variant: [shared_triton.endpoint] for variant in variants}
    router = start_router(redis_server, make_plan(replicas, direct=0, escalation=1, overload="strict", edits=variants))
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.new("RGB", (SIDE, SIDE), "white").save(image)
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)).save(mask)
    found = run_client("openai_edits_client", router.http_url, str(image), str(mask))
    jpegs = found["made"].pop("bytes")
    assert [file[:6] for file in jpegs] == [JPEG] * 2
    assert found["made"] == {name: [PNG] for name in ("plain", "listed", "masked")}
    assert found["events"] == [["image_edit.partial_image", PNG], ["image_edit.completed", PNG]]
    assert found["refused"].startswith("image: ")


@tries("curl", "OpenAI images", "`POST /v1/images/generations`, with a forwarded `x-request-id`")
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
