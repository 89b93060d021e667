"""Jobs are submitted now and fetched later, and have exactly one end, whatever dies in between."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from support.redis import RedisServer
from support.router import EASY, HARD, RouterProcess, StartRouter, make_plan, on_hold
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

FINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture
def endpoints(shared_triton: TritonServer) -> dict[str, list[str]]:
    return {variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")}


def submit(router: RouterProcess, *, key: str = "", **body: Any) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    return httpx.post(router.http_url + "/v1/jobs", json={"prompt": EASY, **body}, headers=headers, timeout=PATIENCE_S)


def ask(router: RouterProcess, job: str, wait: float = 0) -> dict[str, Any]:
    reply = httpx.get(f"{router.http_url}/v1/jobs/{job}", params={"wait": wait}, timeout=wait + PATIENCE_S)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def status_of(router: RouterProcess, job: str) -> int:
    return httpx.get(f"{router.http_url}/v1/jobs/{job}", timeout=PATIENCE_S).status_code


def end_of(router: RouterProcess, job: str) -> dict[str, Any]:
    told: dict[str, Any] = {}

    def ended() -> bool:
        told.update(ask(router, job, wait=5))
        return told["status"] in FINAL

    wait_for(ended, what=f"job {job} to end")
    return told


def test_a_job_is_accepted_at_once_and_its_image_fetched_later(fresh_router: RouterProcess) -> None:
    accepted = submit(fresh_router, prompt=HARD, seed=1)
    assert accepted.status_code == 202
    job = accepted.json()["id"]
    assert accepted.headers["location"] == f"/v1/jobs/{job}"
    told = end_of(fresh_router, job)
    assert (told["status"], told["error"], told["result"]["route"]) == ("succeeded", None, "direct")
    assert told["created_at"] <= told["finished_at"] < told["deadline_at"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["result"]["b64_json"]))))
    assert np.abs(picture.astype(int) - fresh_router.ask(HARD).image).max() <= 1
    assert ask(fresh_router, job) == told


def test_a_job_makes_its_image_in_the_form_that_was_asked_for(
    redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter
) -> None:
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    router = start_router(redis_server, make_plan(replicas, execution_s=SECONDS))
    for form in ("png", "jpeg", "webp"):
        job = submit(router, output_format=form, output_compression=100, quality="auto", user="u-7").json()["id"]
        picture = Image.open(io.BytesIO(base64.b64decode(end_of(router, job)["result"]["b64_json"])))
        assert picture.format == form.upper()


def test_an_idempotency_key_makes_one_job_of_many_tries(shared_router: RouterProcess) -> None:
    first, again = (submit(shared_router, key="once", prompt=HARD, seed=4).json()["id"] for _ in range(2))
    assert first == again
    other = submit(shared_router, key="once", prompt=HARD, seed=5)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "Duplicate")
    assert end_of(shared_router, first)["status"] == "succeeded"


def test_what_cannot_be_drawn_fails_with_the_reason(shared_router: RouterProcess) -> None:
    told = end_of(shared_router, submit(shared_router, prompt="a purple dragon").json()["id"])
    assert (told["status"], told["result"]) == ("failed", None)
    assert "did not understand 'purple'" in told["error"]["message"]


def test_a_job_whose_deadline_is_too_short_fails_and_says_so(shared_router: RouterProcess) -> None:
    told = end_of(shared_router, submit(shared_router, deadline_ms=1).json()["id"])
    assert (told["status"], told["error"]["type"]) == ("failed", "server_error")
    assert "Deadline" in told["error"]["code"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"n": 2}, "n: a job makes one image"),
        ({"stream": True}, "stream: a job makes one image"),
        ({"prompt": ""}, "prompt: is empty"),
        ({"deadline_ms": -1}, "deadline_ms: must be at least 1 ms"),
    ],
)
def test_a_wrong_job_is_refused_at_once(shared_router: RouterProcess, body: dict[str, Any], said: str) -> None:
    reply = submit(shared_router, **body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "Invalid")
    assert said in reply.json()["error"]["message"]


@pytest.mark.parametrize("job", ["nonsense", "default.shapes.0", "a.b.c", "default.shapes.%20x", "default.other.abc"])
def test_an_unknown_job_is_not_found_on_every_route(shared_router: RouterProcess, job: str) -> None:
    for method in ("GET", "DELETE"):
        reply = httpx.request(method, f"{shared_router.http_url}/v1/jobs/{job}", timeout=PATIENCE_S)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "UnknownJob")
    wrong = httpx.get(f"{shared_router.http_url}/v1/jobs/{job}", params={"wait": "nan"}, timeout=PATIENCE_S)
    assert wrong.status_code in (400, 404)


def test_a_cancelled_job_stops_and_stays_cancelled(
    redis_server: RedisServer, shared_triton: TritonServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan(endpoints, direct=1, batch=1, overload="strict"))
    done = submit(router, prompt=HARD).json()["id"]
    assert end_of(router, done)["status"] == "succeeded"
    with on_hold(shared_triton):
        job = submit(router).json()["id"]
        wait_for(lambda: ask(router, job)["status"] == "running", what="the job to begin")
        reply = httpx.delete(f"{router.http_url}/v1/jobs/{job}", timeout=PATIENCE_S)
        assert reply.json()["status"] == "cancelled"
        wait_for(lambda: "cascade_requests_in_hand 0.0" in router.get("/metrics").text, what="the work to stop")
    assert ask(router, job)["status"] == "cancelled"
    assert httpx.delete(f"{router.http_url}/v1/jobs/{done}", timeout=PATIENCE_S).json()["status"] == "succeeded"


def test_jobs_of_a_killed_router_are_done_by_another_and_end_once(
    redis_server: RedisServer, shared_triton: TritonServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    plan = make_plan(endpoints, direct=1, batch=1, overload="strict")
    first, second = (start_router(redis_server, plan) for _ in range(2))
    first.ask(HARD)
    with on_hold(shared_triton):
        jobs = [submit(first, seed=seed).json()["id"] for seed in range(4)]
        wait_for(lambda: all(ask(first, job)["status"] == "running" for job in jobs), what="the jobs to begin")
        assert first.process is not None
        first.process.kill()
        first.process.wait()
    ends = [end_of(second, job) for job in jobs]
    assert [end["status"] for end in ends] == ["succeeded"] * 4
    assert [ask(second, job) for job in jobs] == ends


def test_a_router_that_is_told_to_stop_hands_its_jobs_on(
    redis_server: RedisServer, shared_triton: TritonServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    plan = make_plan(endpoints, direct=1, batch=1, overload="strict")
    first, second = (start_router(redis_server, plan, drain_s=0.1) for _ in range(2))
    first.ask(HARD)
    with on_hold(shared_triton):
        jobs = [submit(first, seed=seed).json()["id"] for seed in range(4)]
        assert first.stop() == 0
    assert [end_of(second, job)["status"] for job in jobs] == ["succeeded"] * 4


def test_without_redis_jobs_are_refused_and_a_redis_that_lost_them_says_not_found(
    mortal_redis: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(mortal_redis, make_plan(endpoints, direct=1))
    job = submit(router).json()["id"]
    assert end_of(router, job)["status"] == "succeeded"
    mortal_redis.kill()
    refused = submit(router)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "StoreAway")
    mortal_redis.start()
    wait_for(lambda: status_of(router, job) == 404, what="Redis")


def test_there_are_only_so_many_jobs_without_an_end(
    redis_server: RedisServer, shared_triton: TritonServer, endpoints: dict[str, list[str]], start_router: StartRouter
) -> None:
    router = start_router(redis_server, make_plan(endpoints, direct=1, overload="strict"), job_limit=2, job_result_s=1)
    router.ask(HARD)
    with on_hold(shared_triton):
        jobs = [submit(router, seed=seed).json()["id"] for seed in range(2)]
        full = submit(router, seed=2)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "QueueFull")
        # None has ended yet, so a place is sure at the first deadline only, ten minutes from when it was handed in.
        assert 600 - 2 * PATIENCE_S <= int(full.headers["retry-after"]) <= 600
    wait_for(lambda: submit(router, seed=3).status_code == 202, what="one that ended to leave its place")
    wait_for(lambda: status_of(router, jobs[0]) == 404, what="it to be gone")


def write_tenants(file: Path, *names: str) -> Path:
    """A file of tenants whose keys are their names."""
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    listed = "\n".join(f"  - {{name: {name}, keys: ['{digest}']}}" for name, digest in keys.items())
    file.write_text(f"tenants:\n{listed}\n")
    return file


def test_a_tenant_that_has_its_share_of_the_places_leaves_the_others_theirs(
    redis_server: RedisServer,
    shared_triton: TritonServer,
    endpoints: dict[str, list[str]],
    start_router: StartRouter,
    tmp_path: Path,
) -> None:
    tenants = write_tenants(tmp_path / "tenants.yaml", "loud", "quiet")
    plan = make_plan(endpoints, direct=1, overload="strict")
    router = start_router(redis_server, plan, job_limit=4, tenants_file=tenants)

    def hand_in(tenant: str, seed: int) -> httpx.Response:
        headers = {"authorization": f"Bearer {tenant}"}
        body = {"prompt": HARD, "seed": seed}
        return httpx.post(router.http_url + "/v1/jobs", json=body, headers=headers, timeout=PATIENCE_S)

    made = httpx.post(
        router.http_url + "/v1/images/generations",
        json={"prompt": HARD},
        headers={"authorization": "Bearer loud"},
        timeout=PATIENCE_S,
    )
    assert made.status_code == 200
    with on_hold(shared_triton):
        assert [hand_in("loud", seed).status_code for seed in range(3)] == [202, 202, 429]
        assert "your limit of unfinished jobs" in hand_in("loud", 3).json()["error"]["message"]
        assert hand_in("quiet", 4).status_code == 202


def test_another_tenants_job_is_not_found(
    redis_server: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, tmp_path: Any
) -> None:
    keys = ("ours", "theirs")
    tenants = write_tenants(tmp_path / "tenants.yaml", *keys)
    router = start_router(redis_server, make_plan(endpoints), tenants_file=tenants)
    headers = [{"authorization": f"Bearer {name}", "idempotency-key": "same"} for name in keys]
    ours, theirs = (
        httpx.post(router.http_url + "/v1/jobs", json={"prompt": EASY}, headers=header, timeout=PATIENCE_S).json()["id"]
        for header in headers
    )
    assert ours != theirs
    statuses = [
        httpx.get(f"{router.http_url}/v1/jobs/{ours}", headers=header, timeout=PATIENCE_S).status_code
        for header in headers
    ]
    assert statuses == [200, 404]
