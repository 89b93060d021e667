"""Images in a bucket: links to them, results of jobs, and what happens while the bucket is away."""

from __future__ import annotations

import io
import re
import signal
import time
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from support.bucket import SECRET, BucketServer
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

LINK_S = 15
"""Long enough to use a link on a busy machine, and short enough to wait until it has expired."""
IN_TIME = {"bucket_timeout_s": PATIENCE_S}


@pytest.fixture
def start(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter, bucket_server: BucketServer
) -> Any:
    """Starts a router with the bucket, and with these settings."""

    def start(**settings: Any) -> RouterProcess:
        plan = make_plan({"shapes-light": [shared_triton.endpoint]}, chain=("shapes-light",), direct=1, escalation=0)
        return start_router(redis_server, plan, **bucket_server.settings(**settings))

    return start


def ask(router: RouterProcess, **fields: Any) -> httpx.Response:
    return router.post({"prompt": EASY, "seed": 1, "response_format": "url", **fields})


def submit(router: RouterProcess, **fields: Any) -> str:
    body = {"prompt": EASY, "seed": 1, **fields}
    reply = httpx.post(f"{router.http_url}/v1/jobs", json=body, timeout=PATIENCE_S)
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def end_of(router: RouterProcess, job: str) -> dict[str, Any]:
    told: dict[str, Any] = {}

    def ended() -> bool:
        told.update(router.get(f"/v1/jobs/{job}?wait=1").json())
        return told["status"] not in ("queued", "running")

    wait_for(ended, what=f"job {job} to end")
    return told


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def drawn(router: RouterProcess) -> int:
    """How many images the workers made."""
    counts = re.findall(r"^cascade_stage_service_seconds_count\S* (\d+)", router.get("/metrics").text, re.M)
    return sum(map(int, counts))


def test_a_client_gets_a_link_to_its_image_which_expires_and_cannot_be_changed(
    start: Any, bucket_server: BucketServer
) -> None:
    router = start(bucket_link_s=LINK_S, **IN_TIME)
    reply = ask(router, n=2, output_format="webp")
    assert reply.status_code == 200, reply.text
    first, second = reply.json()["data"]
    assert "b64_json" not in first
    assert first["route"] == "direct"
    file = httpx.get(first["url"])
    assert (file.status_code, file.headers["content-type"]) == (200, "image/webp")
    pixels = np.asarray(Image.open(io.BytesIO(file.content)).convert("RGB"))
    assert np.abs(pixels.astype(int) - router.ask(EASY).image).mean() < 10
    assert [name.startswith("made/default/shapes/") and name.endswith(".webp") for name in bucket_server.names()] == [
        True,
        True,
    ]
    bare, _, query = second["url"].partition("?")
    assert httpx.get(bare).status_code >= 400
    assert httpx.get(f"{first['url'].partition('?')[0]}?{query}").status_code == 403
    wait_for(lambda: httpx.get(first["url"]).status_code >= 400, what="the link to expire")
    assert 'cascade_bucket_total{outcome="done",what="store"} 2.0' in router.get("/metrics").text
    assert SECRET not in router.log.read_text()


def test_links_name_the_address_under_which_clients_reach_the_bucket(start: Any) -> None:
    router = start(bucket_public_endpoint="https://images.example", **IN_TIME)
    assert ask(router).json()["data"][0]["url"].startswith("https://images.example/images/made/default/shapes/")


def test_the_result_of_a_job_is_in_the_bucket_and_each_answer_has_a_new_link(
    start: Any, redis_server: RedisServer, bucket_server: BucketServer
) -> None:
    router = start(bucket_link_s=LINK_S, **IN_TIME)
    job = submit(router)
    told = end_of(router, job)
    assert (told["status"], "b64_json" in told["result"], "object" in told["result"]) == ("succeeded", False, False)
    assert len(bucket_server.names()) == 1
    with redis_server.client() as client:
        (kept,) = [key for key in client.scan_iter() if key.endswith(job)]
        assert "image" not in client.hkeys(kept)
    wait_for(lambda: httpx.get(told["result"]["url"]).status_code >= 400, what="the link to expire")
    again = router.get(f"/v1/jobs/{job}").json()
    assert Image.open(io.BytesIO(httpx.get(again["result"].pop("url")).content)).format == "PNG"
    told["result"].pop("url")
    assert again == told
    here = end_of(router, submit(router, response_format="b64_json"))
    assert (here["status"], "url" in here["result"]) == ("succeeded", False)
    assert len(bucket_server.names()) == 1


def test_while_the_bucket_is_away_only_what_needs_it_is_refused_and_before_it_is_drawn(
    start: Any, bucket_server: BucketServer
) -> None:
    router = start(bucket_timeout_s=1)
    bucket_server.signal(signal.SIGKILL)
    refused = ask(router)
    assert code_of(refused) == (503, "BucketAway")
    assert int(refused.headers["retry-after"]) >= 1
    before = drawn(router)
    job = submit(router)
    assert code_of(ask(router)) == (503, "BucketAway")
    assert drawn(router) == before > 0
    assert router.post({"prompt": EASY}).status_code == 200
    assert router.get("/readyz").status_code == 200
    bucket_server.start()
    assert end_of(router, job)["status"] == "succeeded"
    assert ask(router).status_code == 200
    text = router.get("/metrics").text
    assert 'cascade_refusals_total{cascade="default/shapes",reason="BucketAway"}' in text
    assert 'cascade_bucket_total{outcome="failed",what="store"}' in text


def test_a_bucket_that_does_not_answer_holds_nobody_up_for_longer_than_its_time(
    start: Any, bucket_server: BucketServer
) -> None:
    router = start(bucket_timeout_s=0.5)
    assert ask(router, deadline_ms=PATIENCE_S * 1000).status_code == 200
    bucket_server.signal(signal.SIGSTOP)
    began = time.monotonic()
    assert code_of(ask(router)) == (503, "BucketAway")
    assert router.post({"prompt": EASY}).status_code == 200
    assert time.monotonic() - began < PATIENCE_S
    bucket_server.signal(signal.SIGCONT)


def test_a_job_that_finds_no_bucket_until_its_deadline_ends_once(start: Any, bucket_server: BucketServer) -> None:
    router = start(bucket_timeout_s=0.5)
    bucket_server.signal(signal.SIGKILL)
    job = submit(router, deadline_ms=2000)
    told = end_of(router, job)
    assert (told["status"], told["result"]) == ("failed", None)
    assert told["error"]["code"] in ("DeadlineExceeded", "BucketAway")
    bucket_server.start()
    wait_for(lambda: ask(router).status_code == 200, what="the bucket to be used again")
    assert router.get(f"/v1/jobs/{job}").json() == told


def test_what_cannot_have_a_link_is_refused_by_name(start: Any, shared_router: RouterProcess) -> None:
    refused = ask(start(), stream=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    none = ask(shared_router)
    assert (none.status_code, "CASCADE_ROUTER_BUCKET" in none.json()["error"]["message"]) == (400, True)
