"""Data of other programs under the router's keys in Redis only harms what it replaces."""

from __future__ import annotations

import re

import httpx
import pytest

from cascade_api.names import CASCADE_INDEX, CascadeRef
from cascade_router.jobs.records import job_id
from cascade_router.requests import unique_of
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan, publish
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


def followed(router: RouterProcess) -> float:
    """Generation of the plan that a router follows."""
    [number] = re.findall(r"^cascade_plan_generation\{.*\} (.*)$", router.get("/metrics").text, re.MULTILINE)
    return float(number)


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
        said(router, "WRONGTYPE")
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
        wait_for(lambda: client.type(SHAPES.demand_key) == "hash", what="demand to be counted again")
    counted = 'cascade_bad_data_total{cascade="default/shapes",key="demand"} 1.0'
    wait_for(lambda: counted in router.get("/metrics").text, what="the bad data to be counted")


def test_a_plan_that_cannot_serve_does_not_replace_one_that_can(
    redis_server: RedisServer, router: RouterProcess, sleeper_triton: TritonServer
) -> None:
    plan = make_plan({variant: [sleeper_triton.endpoint] for variant in SECONDS}, execution_s=SECONDS)
    publish(redis_server, make_plan({}))
    said(router, "it cannot serve, and the last one can")
    assert router.is_ready()
    assert router.ask(EASY).route
    publish(redis_server, plan.model_copy(update={"generation": 2**62}))
    said(router, "more than a day ahead")
    assert router.ask(EASY).route
    later = make_plan({variant: [sleeper_triton.endpoint] for variant in SECONDS}, execution_s=SECONDS)
    publish(redis_server, later)
    wait_for(lambda: followed(router) == later.generation, what="a later plan to be followed")
    # A replica that does not answer serves nobody: then a plan that says so is followed.
    gone = make_plan({variant: ["127.0.0.1:9"] for variant in SECONDS}, execution_s=SECONDS)
    publish(redis_server, gone)
    wait_for(lambda: followed(router) == gone.generation, what="the plan of what does not answer to be followed")
    assert router.post({"prompt": EASY, "deadline_ms": 2000}).status_code != 200
    wait_for(lambda: not router.is_ready(), what="the router to have found that nothing answers")
    none = make_plan({})
    publish(redis_server, none)
    wait_for(lambda: followed(router) == none.generation, what="the plan without replicas to be followed")


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
