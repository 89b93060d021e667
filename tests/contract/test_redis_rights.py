"""Redis users with exactly the rights in the docs are sufficient; if a right is missing, the error names it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx
import pytest

from cascade_api.names import CASCADE_INDEX, CascadeRef, rate_key
from cascade_operator.store import Store
from support.local_run import LocalRun
from support.redis import RedisServer
from support.router import EASY, StartRouter, make_plan
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

INSTALL = Path(__file__).parents[2] / "docs" / "install.md"
SHAPES = CascadeRef("default", "shapes")
POOL = "shapes-light.cpu"


def give_rights(server: RedisServer, user: str, *changes: str) -> str:
    """Make a user with the rights of the docs, changed; returns the URL for it."""
    (rules,) = re.findall(rf"^ACL SETUSER {user} (.*)$", INSTALL.read_text(), re.MULTILINE)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", user, "reset", *rules.split(), *changes)
    return server.url.replace("redis://", f"redis://{user}:PASSWORD@")


@pytest.fixture
def endpoints(shared_triton: TritonServer) -> dict[str, list[str]]:
    return {variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")}


def refused_commands(server: RedisServer) -> list[str]:
    with server.client() as client:
        return [f"{entry['username']}: {entry['object']}" for entry in client.execute_command("ACL", "LOG")]


async def test_the_operator_needs_no_other_rights(mortal_redis: RedisServer, endpoints: dict[str, list[str]]) -> None:
    plan = make_plan(endpoints)
    async with Store(give_rights(mortal_redis, "operator")) as store:
        assert await store.ping()
        assert await store.version()
        assert await store.time_s()
        assert await store.publish(plan)
        assert await store.save_memory(SHAPES, "{}")
        with mortal_redis.client() as client:
            client.zadd(SHAPES.routers_key, {"router": 2**52})
        seen = await store.observe(SHAPES, [POOL])
        assert seen is not None
        assert seen.plan == plan
        assert await store.published() == {SHAPES}
        assert await store.plan(SHAPES) == plan
        assert await store.forget(SHAPES)
    assert refused_commands(mortal_redis) == []


def test_a_router_needs_no_other_rights(
    mortal_redis: RedisServer, endpoints: dict[str, list[str]], start_router: StartRouter, tmp_path: Path
) -> None:
    plan = make_plan(endpoints)
    tenants = tmp_path / "tenants.yaml"
    digest = hashlib.sha256(b"secret").hexdigest()
    tenants.write_text(f"tenants: [{{name: studio, keys: [{digest}], requestsPerSecond: 100}}]")
    router = start_router(mortal_redis, plan, redis_url=give_rights(mortal_redis, "router"), tenants_file=str(tenants))
    bearer = {"authorization": "Bearer secret"}
    answer = router.ask(EASY, parameters={"idempotency_key": "mine"}, headers=bearer)
    assert answer.image.shape == (32, 32, 3)
    with mortal_redis.client() as client:
        assert client.exists(rate_key("studio"))
    headers = {"idempotency-key": "a", **bearer}
    reply = httpx.post(router.http_url + "/v1/jobs", json={"prompt": EASY}, headers=headers, timeout=PATIENCE_S)
    job = f"/v1/jobs/{reply.json()['id']}"
    wait_for(
        lambda: httpx.get(router.http_url + job, headers=bearer).json()["status"] == "succeeded",
        what="the job to be done",
    )
    assert httpx.delete(router.http_url + job, headers=bearer, timeout=PATIENCE_S).status_code == 200
    with mortal_redis.client() as client:
        wait_for(lambda: client.keys(SHAPES.scores_key("*")), what="a report")
        client.client_kill_filter(_type="normal", skipme=True)  # it comes back by itself
        wait_for(lambda: "cascade_store_away 0.0" in router.get("/metrics").text, what="Redis to be found again")
    assert router.ask(EASY, headers=bearer).image.shape == (32, 32, 3)
    assert refused_commands(mortal_redis) == []


@pytest.mark.parametrize(
    ("user", "changes", "said"),
    [
        ("router", [">other", "<PASSWORD"], "refuses the user name or password"),
        ("router", ["resetkeys", "~other:*"], "lacks the right to its keys (`~cascades ~cascade:*`)"),
        ("router", ["-smembers", "-scard"], "lacks the right to a command (`+s"),
        ("router", ["resetchannels", "&grants:*"], "lacks the right to its channels (`&cascade:{*}:plan-changed`"),
        ("router", ["resetchannels", "&cascade:{*}:plan-changed"], "lacks the right to its channels"),
        ("router", ["-evalsha"], "lacks the right to a command (`+evalsha`)"),
        ("router", ["-zadd"], "lacks the right to a command (`+zadd`)"),
    ],
)
def test_a_router_says_which_right_is_missing(
    mortal_redis: RedisServer,
    endpoints: dict[str, list[str]],
    start_router: StartRouter,
    user: str,
    changes: list[str],
    said: str,
) -> None:
    router = start_router(mortal_redis, redis_url=give_rights(mortal_redis, user, *changes))
    with mortal_redis.client() as client:
        plan = make_plan(endpoints)
        client.sadd(CASCADE_INDEX, plan.cascade)
        client.set(plan.ref.plan_key, plan.to_json())
    wait_for(lambda: said in router.log.read_text().replace("\\u0027", "'"), what=f"{said!r} in the log")
    assert "PASSWORD" not in router.log.read_text()


async def test_the_operator_says_which_right_is_missing(
    mortal_redis: RedisServer, endpoints: dict[str, list[str]]
) -> None:
    async with Store(give_rights(mortal_redis, "operator", "resetchannels")) as store:
        assert await store.ping()
        assert not await store.publish(make_plan(endpoints))
        assert store.refusal is not None
        assert "lacks the right to its channels (`&cascade:{*}:plan-changed`" in store.refusal
        assert await store.ping()
        assert store.refusal is None


def test_cascade_up_says_what_is_wrong_with_the_password_or_the_rights(
    local_run: LocalRun, mortal_redis: RedisServer
) -> None:
    right = give_rights(mortal_redis, "operator")
    for url, said in (
        (right.replace("PASSWORD", "guess"), "refuses the user name or password in its URL"),
        (give_rights(mortal_redis, "operator", "resetchannels"), "lacks the right to its channels"),
    ):
        done = local_run.up("--redis-url", url)
        assert done.returncode == 1
        assert f"--redis-url: {mortal_redis.url}" in done.stderr
        assert said in done.stderr
        assert "guess" not in done.stderr
        assert "no Redis answers" not in done.stderr
        local_run.check_gone()


def test_a_password_that_is_missing_is_asked_for(mortal_redis: RedisServer, local_run: LocalRun) -> None:
    with mortal_redis.client() as client:
        client.execute_command("CONFIG", "SET", "requirepass", "secret")
    done = local_run.up("--redis-url", mortal_redis.url)
    assert "Redis needs a password: put it into the URL" in done.stderr
    local_run.check_gone()
