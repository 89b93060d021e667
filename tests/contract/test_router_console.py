"""What the console reads from a real router: one cascade now, over all routers, and what is new since a moment."""

from __future__ import annotations

import pytest

from cascade_api.console import ConsoleView
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract


def look(router: RouterProcess, *, since_ms: int = 0) -> ConsoleView:
    return ConsoleView.model_validate_json(router.get(f"/console/state?since={since_ms}").text)


def test_a_router_tells_what_it_serves_and_how(shared_router: RouterProcess) -> None:
    before = look(shared_router).cascades[0].answered
    shared_router.ask(EASY)
    wait_for(lambda: look(shared_router).cascades[0].answered > before, what="the answer to be counted")
    view = look(shared_router)
    [cascade] = view.cascades
    assert (cascade.name, cascade.cascade, view.store_away) == ("shapes", "default/shapes", False)
    assert cascade.realised_shares
    assert {worker.id for worker in cascade.workers} == {"shapes-light-0", "shapes-heavy-0"}
    assert cascade.decision.why.startswith("No earlier plan was found, so this is the first: ")
    assert cascade.decisions


def test_samples_are_kept_and_only_new_ones_are_sent_again(shared_router: RouterProcess) -> None:
    wait_for(lambda: look(shared_router).cascades[0].samples, what="a sample")
    last = look(shared_router).cascades[0].samples[-1].at_ms
    later = [sample.at_ms for sample in look(shared_router, since_ms=last).cascades[0].samples]
    assert all(at > last for at in later)


@pytest.mark.parametrize("since", ["-1", "x", "9" * 40, "1.5"])
def test_a_wrong_moment_is_refused_by_name(shared_router: RouterProcess, since: str) -> None:
    answer = shared_router.get(f"/console/state?since={since}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "since"


def test_two_routers_tell_the_same(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    first = start_router(redis_server, plan)
    second = start_router(redis_server, plan)
    for _ in range(3):
        first.ask(EASY)
    wait_for(lambda: look(second).cascades[0].answered == 3, what="the other router's answers")
    assert look(second).cascades[0].routers == 2


def test_without_redis_it_tells_what_it_knows_alone(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    router = start_router(redis_server, plan)
    redis_server.kill()
    try:
        wait_for(lambda: look(router).store_away, what="Redis to be missed")
        router.ask(EASY)
        assert wait_for(lambda: look(router).cascades[0].answered, what="its own answer") >= 1
    finally:
        redis_server.start()


def test_it_can_be_switched_off_and_needs_a_key_where_there_are_tenants(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    off = start_router(redis_server, plan, console=False)
    assert [off.get(path).status_code for path in ("/", "/console/state")] == [404, 404]
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("tenants: []\n")
    closed = start_router(redis_server, plan, tenants_file=tenants)
    assert [closed.get(path).status_code for path in ("/", "/console/state")] == [200, 401]
