"""A cascade that offers two sizes, served by a real Triton: over every protocol, and another size is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from support.painters import write_painter
from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, make_plan
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

SIZES = ("32x32", "64x48")


@pytest.fixture
def router(tmp_path: Path, redis_server: RedisServer, start_router: StartRouter) -> Iterator[RouterProcess]:
    models = tmp_path / "painters"
    write_painter(models, "weights-painter", side=32, sizes=SIZES)
    server = TritonServer(models, tmp_path, load=("weights-painter",), replica_id="test-sizes")
    seconds = {"32x32": {1: 0.02, 4: 0.08}, "64x48": {1: 0.06, 4: 0.24}}
    painter = {
        "weights": "painter",
        "settings": {"steps": 4},
        "classes": {"cpu": {"batch": 4, "executionS": seconds}},
    }
    try:
        server.start()
        plan = make_plan(
            {"painter": [server.endpoint]},
            chain=["painter"],
            direct=1,
            escalation=0,
            execution_s={"painter": 0.02},
            sizes=list(SIZES),
            variants={"painter": painter},
        )
        yield start_router(redis_server, plan)
    finally:
        server.stop()


def size_of(item: dict[str, Any]) -> str:
    width, height = Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).size
    return f"{width}x{height}"


def test_images_have_the_size_that_is_named(router: RouterProcess) -> None:
    for named, expected in (({}, "32x32"), ({"size": "auto"}, "32x32"), ({"size": "64x48"}, "64x48")):
        answer = router.post({"prompt": "a cat", "n": 2, **named}).json()
        assert [size_of(item) for item in answer["data"]] == [expected] * 2
        assert answer["size"] == expected
    refused = router.post({"prompt": "a cat", "size": "48x64"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "size"
    assert "'48x64' is not offered; leave it out or use 32x32 or 64x48" in refused.json()["error"]["message"]


def test_kserve_clients_send_width_and_height(router: RouterProcess) -> None:
    def ask(width: int, height: int) -> Any:
        inputs = [triton.InferInput("prompt", [1], "BYTES")]
        inputs[0].set_data_from_numpy(np.array([b"a cat"], dtype=object))
        for name, side in (("width", width), ("height", height)):
            inputs.append(triton.InferInput(name, [1], "INT64"))
            inputs[-1].set_data_from_numpy(np.array([side], dtype=np.int64))
        return router.client.infer("shapes", inputs, client_timeout=PATIENCE_S)

    assert ask(64, 48).as_numpy("image").shape == (48, 64, 3)
    assert ask(32, 32).as_numpy("image").shape == (32, 32, 3)
    with pytest.raises(InferenceServerException, match="'48x48' is not offered"):
        ask(48, 48)


def test_a_job_keeps_its_size(router: RouterProcess) -> None:
    job = httpx.post(f"{router.http_url}/v1/jobs", json={"prompt": "a cat", "size": "64x48"}).json()["id"]

    def ended() -> dict[str, Any] | None:
        told = dict(router.get(f"/v1/jobs/{job}").json())
        return told if told["status"] == "succeeded" else None

    assert size_of(wait_for(ended, what="the job to end")["result"]) == "64x48"
