"""Two tenants of a real router, one of whom asks for more than the workers can do."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from support.redis import RedisServer
from support.router import RouterProcess, StartRouter, make_plan, on_hold
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract

FLOOD = 12


@pytest.fixture
def router(
    redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter, tmp_path: Path
) -> RouterProcess:
    """One worker, which makes one image at a time; all go to the heavy model."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("flood", "other")}
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tenants:\n" + "".join(f"  - {{name: {name}, keys: [{d}]}}\n" for name, d in digests.items()))
    replicas = {"shapes-light": [], "shapes-heavy": [sleeper_triton.endpoint]}
    plan = make_plan(
        replicas, chain=["shapes-heavy"], direct=1, escalation=0, batch=1, overload="strict", execution_s=SECONDS
    )
    return start_router(redis_server, plan, tenants_file=str(tenants))


def ask(router: RouterProcess, tenant: str) -> tuple[int, str]:
    reply = router.post({"prompt": "a cat"}, headers={"authorization": f"Bearer {tenant}"})
    return reply.status_code, reply.headers.get("cascade-reason", "")


def in_hand(router: RouterProcess, count: int) -> bool:
    return f"cascade_requests_in_hand {count}.0" in router.get("/metrics").text


def test_a_flood_is_refused_beyond_its_share_and_the_other_tenant_is_served(
    router: RouterProcess, sleeper_triton: TritonServer
) -> None:
    assert [ask(router, tenant) for tenant in ("other", "flood")] == [(200, ""), (200, "")]
    with ThreadPoolExecutor(FLOOD) as pool:
        with on_hold(sleeper_triton):
            flood: list[Future[tuple[int, str]]] = []
            for _ in range(FLOOD):
                held = sum(not asked.done() for asked in flood)
                asked = pool.submit(ask, router, "flood")
                flood.append(asked)
                wait_for(lambda a=asked, n=held: a.done() or in_hand(router, n + 1), what="it to be taken or refused")
            other = pool.submit(ask, router, "other")
            held = sum(not asked.done() for asked in flood)
            wait_for(lambda: other.done() or in_hand(router, held + 1), what="the other to be taken or refused")
        answers = [asked.result() for asked in flood]
        assert other.result() == (200, "")
    assert set(answers) == {(200, ""), (429, "RateLimited")}
    assert answers.count((200, "")) < FLOOD / 2
    text = router.get("/metrics").text
    for tenant in ("flood", "other"):
        assert f'cascade_accelerator_seconds_total{{cascade="default/shapes",tenant="{tenant}"' in text
