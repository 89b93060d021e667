"""Request ids are echoed and logged, and no more; an idempotency key makes a request the only one of its kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from cascade_api.names import CascadeRef
from cascade_router.requests import unique_of
from support.redis import RedisServer
from support.router import EASY, Made, RouterProcess, StartRouter, inputs_of, make_plan, on_hold
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import wait_for

pytestmark = pytest.mark.contract

ODD_IDS = ["my id", "id/with|bars~and@signs", "丸い画像", "line\nbreak\x1b[31m", "x" * 5_000, "' OR 1=1 --", "a\\b"]
KEYS = """
tenants:
  - {name: studio, keys: [%s]}
  - {name: press, keys: [%s]}
"""


@pytest.fixture
def router(redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter) -> RouterProcess:
    """All prompts go to the heavy model, once a first one has been there."""
    return warm(start_router(redis_server, heavy_plan(sleeper_triton)))


def heavy_plan(server: TritonServer) -> Any:
    replicas = {variant: [server.endpoint] for variant in SECONDS}
    return make_plan(replicas, direct=1, overload="strict", execution_s=SECONDS)


def warm(router: RouterProcess) -> RouterProcess:
    assert router.ask(EASY).route == "direct"
    return router


class Asked:
    """Requests under way over gRPC, and what became of each."""

    def __init__(self, router: RouterProcess) -> None:
        self._router = router
        self.ends: list[Any] = []

    def ask(self, **options: Any) -> None:
        self._router.client.async_infer(
            "shapes", inputs_of(EASY), callback=lambda result, error: self.ends.append(error or result), **options
        )

    def under_way(self, count: int) -> None:
        line = f"cascade_requests_in_hand {count}.0"
        wait_for(lambda: line in self._router.get("/metrics").text, what=f"{count} to be under way")

    def answered(self, count: int) -> list[Any]:
        wait_for(lambda: len(self.ends) == count, what=f"{count} ends")
        assert {Made(end).route for end in self.ends} == {"direct"}
        return self.ends


@contextmanager
def one_with_key(router: RouterProcess, server: TritonServer, key: str) -> Iterator[None]:
    """A request with an idempotency key is under way inside the block, and answered after it."""
    asked = Asked(router)
    with on_hold(server):
        asked.ask(parameters={"idempotency_key": key})
        asked.under_way(1)
        yield
    asked.answered(1)


def test_requests_with_one_id_run_at_once_over_both_protocols(
    router: RouterProcess, sleeper_triton: TritonServer
) -> None:
    asked = Asked(router)
    with on_hold(sleeper_triton):
        for _ in range(3):
            asked.ask(request_id="11")
        asked.under_way(3)
    assert {end.get_response().id for end in asked.answered(3)} == {"11"}
    replies = [router.post({"prompt": EASY, "n": 2}, headers={"x-request-id": "5d1c-trace"}) for _ in range(2)]
    assert [(reply.status_code, reply.headers["x-request-id"]) for reply in replies] == [(200, "5d1c-trace")] * 2


@pytest.mark.parametrize("request_id", ODD_IDS)
def test_any_id_is_served_and_comes_back(router: RouterProcess, request_id: str) -> None:
    made = router.ask(EASY, request_id=request_id)
    assert made.result.get_response().id == request_id
    with pytest.raises(InferenceServerException, match="needs about"):
        router.ask(EASY, request_id=request_id, parameters={"deadline_ms": 1})
    logged = [json.loads(line) for line in router.log.read_text().splitlines() if '"refused"' in line]
    assert logged[-1]["request"].isascii()
    assert logged[-1]["request"].isprintable()
    assert len(logged[-1]["request"]) <= 128


def test_a_header_of_odd_bytes_comes_back_fit_for_a_header(router: RouterProcess) -> None:
    for sent, back in (("two words", "two words"), ("caf\xe9", "caf\\xe9"), ("y" * 2_000, "y" * 128), ("", None)):
        reply = router.post({"prompt": EASY}, headers={"x-request-id": sent.encode("latin-1")})
        assert reply.status_code == 200, reply.text
        assert back is None or reply.headers["x-request-id"] == back
        assert reply.headers["x-request-id"]


def test_a_key_keeps_a_second_request_away_until_the_first_has_ended(
    router: RouterProcess, sleeper_triton: TritonServer
) -> None:
    for _ in range(2):
        with one_with_key(router, sleeper_triton, "order-7"):
            with pytest.raises(InferenceServerException, match="idempotency_key: a request with this key") as refused:
                router.ask(EASY, parameters={"idempotency_key": "order-7"})
            assert refused.value.status() == "StatusCode.ALREADY_EXISTS"
            for body in ({"prompt": EASY}, {"prompt": EASY, "n": 3}, {"prompt": EASY, "stream": True}):
                reply = router.post(body, headers={"Idempotency-Key": "order-7"})
                assert (reply.status_code, reply.json()["error"]["code"]) == (409, "Duplicate")


def test_a_key_holds_for_all_images_of_a_call(router: RouterProcess) -> None:
    for _ in range(2):
        reply = router.post({"prompt": EASY, "n": 10}, headers={"idempotency-key": "ten"})
        assert (reply.status_code, len(reply.json()["data"])) == (200, 10), reply.text


def test_a_key_that_cannot_be_is_named(router: RouterProcess) -> None:
    with pytest.raises(InferenceServerException, match="idempotency_key: has 256 characters; at most 255"):
        router.ask(EASY, parameters={"idempotency_key": "k" * 256})
    with pytest.raises(InferenceServerException, match="idempotency_key: must be text"):
        router.ask(EASY, parameters={"idempotency_key": 7})
    reply = router.post({"prompt": EASY}, headers={"idempotency-key": "k" * 256})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "idempotency-key")


def test_tenants_have_keys_of_their_own(
    redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter, tmp_path: Path
) -> None:
    names = ("studio", "press")
    file = tmp_path / "tenants.yaml"
    file.write_text(KEYS % tuple(sha256(name.encode()).hexdigest() for name in names))
    router = start_router(redis_server, heavy_plan(sleeper_triton), tenants_file=file)
    as_studio, as_press = ({"authorization": f"Bearer {name}"} for name in names)
    assert router.ask(EASY, headers=as_studio).route == "direct"
    asked = Asked(router)
    with on_hold(sleeper_triton):
        for headers in (as_studio, as_press):
            asked.ask(parameters={"idempotency_key": "same"}, headers=headers)
        asked.under_way(2)
        with pytest.raises(InferenceServerException, match="with this key is being served"):
            router.ask(EASY, parameters={"idempotency_key": "same"}, headers=as_press)
    asked.answered(2)


def test_a_key_that_a_dead_router_holds_is_waited_for_until_the_deadline(
    redis_server: RedisServer, router: RouterProcess
) -> None:
    with redis_server.client() as client:
        lock = CascadeRef("default", "shapes").request_key(unique_of("k", tenant=""))
        client.set(lock, "a router that nobody has heard of", ex=600)
        with pytest.raises(InferenceServerException, match="a router that may have died still holds this") as refused:
            router.ask(EASY, parameters={"idempotency_key": "k", "deadline_ms": 1_000})
        assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        client.pexpire(lock, 1)
        assert router.ask(EASY, parameters={"idempotency_key": "k"}).route == "direct"


def test_without_redis_a_key_is_refused_and_other_requests_are_served(
    mortal_redis: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter
) -> None:
    router = warm(start_router(mortal_redis, heavy_plan(sleeper_triton)))
    mortal_redis.kill()
    wait_for(lambda: "queue.redis_away" in router.log.read_text(), what="Redis to be missed")
    with pytest.raises(InferenceServerException, match="keys are kept in Redis, which cannot be reached") as refused:
        router.ask(EASY, parameters={"idempotency_key": "k"})
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    reply = router.post({"prompt": EASY}, headers={"idempotency-key": "k"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "StoreAway")
    assert router.ask(EASY, request_id="k").route == "direct"
    assert router.post({"prompt": EASY}, headers={"x-request-id": "k"}).status_code == 200
