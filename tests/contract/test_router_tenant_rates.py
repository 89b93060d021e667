"""A tenant's rate over two real routers of one Redis, and while that Redis is gone or hangs."""

from __future__ import annotations

import hashlib
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cascade_api.names import rate_key
from support.redis import RedisServer
from support.router import EASY, RouterProcess, StartRouter, make_plan
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract

BEARER = {"authorization": "Bearer secret"}
BURST = 6


@pytest.fixture
def routers(
    mortal_redis: RedisServer, shared_triton: TritonServer, start_router: StartRouter, tmp_path: Path
) -> list[RouterProcess]:
    """Two routers that know one tenant, whose bucket holds `BURST` images and practically never fills."""
    tenants = tmp_path / "tenants.yaml"
    digest = hashlib.sha256(b"secret").hexdigest()
    tenants.write_text(f"tenants: [{{name: studio, keys: [{digest}], requestsPerSecond: 0.001, burst: {BURST}}}]")
    plan = make_plan({variant: [shared_triton.endpoint] for variant in ("shapes-light", "shapes-heavy")})
    return [start_router(mortal_redis, plan, tenants_file=str(tenants)) for _ in range(2)]


def ask(router: RouterProcess, images: int = 1) -> int:
    return router.post({"prompt": EASY, "n": images}, headers=BEARER).status_code


def test_a_rate_holds_over_all_routers(mortal_redis: RedisServer, routers: list[RouterProcess]) -> None:
    assert ask(routers[0], BURST + 1) == 400
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(ask, [routers[number % 2] for number in range(3 * BURST)]))
    assert sorted(statuses) == [200] * BURST + [429] * 2 * BURST
    with mortal_redis.client() as client:
        # What the bucket holds is forgotten once it would be full again.
        assert 1000 * (BURST - 1) < client.ttl(rate_key("studio")) <= 1000 * BURST + 1
        client.delete(rate_key("studio"))
        assert [ask(routers[0], BURST - 1), ask(routers[1], 2), ask(routers[1])] == [200, 429, 200]
        client.set(rate_key("studio"), "something else")
        assert [ask(routers[0], BURST), ask(routers[1])] == [200, 429]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_each_router_grants_by_itself_while_redis_is_away(
    mortal_redis: RedisServer, routers: list[RouterProcess], number: signal.Signals
) -> None:
    first, second = routers
    assert ask(first, BURST - 2) == 200
    mortal_redis.signal(number)
    # The first goes on from what it heard last, the second from a full bucket.
    assert [ask(first), ask(first), ask(first)] == [200, 200, 429]
    assert [ask(second, BURST), ask(second)] == [200, 429]
    if number is signal.SIGKILL:
        mortal_redis.start()
    else:
        mortal_redis.signal(signal.SIGCONT)
    with mortal_redis.client() as client:

        def shared_again() -> bool:
            client.delete(rate_key("studio"))
            ask(second)
            return bool(client.exists(rate_key("studio")))

        wait_for(shared_again, what="the rate to be shared again")
