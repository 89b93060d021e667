"""What something else wrote into Redis under the router's names harms at most what it stands in the place of."""

from __future__ import annotations

import httpx
import pytest

from cascade_api.names import CASCADE_INDEX, CascadeRef
from cascade_router.jobs.records import job_id
from cascade_router.requests import unique_of
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

SHAPES, OTHER = CascadeRef("default", "shapes"), CascadeRef("default", "other")
RUBBISH = "written by somebody else"


@pytest.fixture
def router(redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    return start_router(redis_server, make_plan(replicas, execution_s=SECONDS))


def said(router: RouterProcess, words: str) -> None:
    wait_for(lambda: words in router.log.read_text(), what=f"the log to say {words!r}")


def test_plans_that_are_none_leave_the_others_in_force(redis_server: RedisServer, router: RouterProcess) -> None:
    with redis_server.client() as client:
        client.sadd(CASCADE_INDEX, "no cascade", "default/other")
        client.hset(OTHER.plan_key, "a", "b")
        client.publish(OTHER.plan_channel, "1")
        said(router, "not a cascade")
        said(router, "not a plan")
        assert router.ask(EASY).route
        client.delete(SHAPES.plan_key)
        client.rpush(SHAPES.plan_key, RUBBISH)
        client.publish(SHAPES.plan_channel, RUBBISH)
        wait_for(lambda: router.log.read_text().count("not a plan") >= 2, what="the second to be noticed")
        assert router.ask(EASY).route
        client.delete(CASCADE_INDEX)
        client.set(CASCADE_INDEX, RUBBISH)
        said(router, "the last plan stays in force")
        assert router.ask(EASY).route


def test_a_lock_demand_or_report_of_another_type_refuses_nobody(
    redis_server: RedisServer, router: RouterProcess
) -> None:
    with redis_server.client() as client:
        client.rpush(SHAPES.request_key(unique_of("mine", tenant="")), RUBBISH)
        client.delete(SHAPES.demand_key)
        client.set(SHAPES.demand_key, RUBBISH)
        assert router.ask(EASY, parameters={"idempotency_key": "mine"}).route
        said(router, "demand cannot be counted")
        wait_for(lambda: "cascade_store_away 0.0" in router.get("/metrics").text, what="Redis to count as there")
        client.delete(SHAPES.demand_key)
        router.ask(EASY)
        wait_for(lambda: client.hgetall(SHAPES.demand_key), what="demand to be counted again")


def test_rubbish_among_the_jobs_keeps_none_from_being_done(redis_server: RedisServer, router: RouterProcess) -> None:
    broken = {
        "text": lambda key: client.set(key, RUBBISH),
        "empty": lambda key: client.delete(key),
        "state": lambda key: client.hset(key, mapping={"state": RUBBISH}),
        "token": lambda key: client.hset(key, mapping={"state": "queued", "token": RUBBISH}),
        "body": lambda key: client.hset(key, mapping={"state": "queued", "body": RUBBISH, "deadline": 10**13}),
        "deadline": lambda key: client.hset(key, mapping={"state": "running", "deadline": RUBBISH}),
        "result": lambda key: client.hset(key, mapping={"state": "succeeded", "tenant": "", "result": RUBBISH}),
    }
    with redis_server.client() as client:
        for name, write in broken.items():
            write(SHAPES.job_key(job_id(SHAPES, name)))
            client.zadd(SHAPES.jobs_key, {job_id(SHAPES, name): 1})
        job = httpx.post(router.http_url + "/v1/jobs", json={"prompt": EASY}, timeout=PATIENCE_S).json()["id"]
        wait_for(lambda: router.get(f"/v1/jobs/{job}").json()["status"] == "succeeded", what="the job to be done")
        wait_for(lambda: client.zcard(SHAPES.jobs_key) == 0, what="the rubbish to be dropped")
    for name in broken:
        reply = router.get(f"/v1/jobs/{job_id(SHAPES, name)}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "UnknownJob"), name
    assert "Traceback" not in router.log.read_text()
