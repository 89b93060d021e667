"""Routers start and stop under load: another does the work of a killed one, and a stopped one finishes its own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import grpc
import grpc.aio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tritonclient.grpc import service_pb2_grpc

from cascade_router.serving import http_protocol
from cascade_router.serving.servers import HttpServer
from support.ports import listens
from support.redis import RedisServer
from support.retrying import RetryingClient, message_of
from support.router import EASY, RouterProcess, StartRouter, make_plan, on_hold
from support.sleepers import SECONDS
from support.triton import TritonServer
from support.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.contract

RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
BOTH = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": RETRY}]}
)
"""As docs/router.md has it for clients."""


@pytest.fixture
def routers(
    redis_server: RedisServer, sleeper_triton: TritonServer, start_router: StartRouter
) -> tuple[RouterProcess, RouterProcess]:
    """Two of one cascade, a quarter of whose images are made twice."""
    replicas = {variant: [sleeper_triton.endpoint] * 2 for variant in SECONDS}
    plan = make_plan(replicas, direct=0, escalation=0.25, execution_s=SECONDS)
    first, second = (start_router(redis_server, plan, drain_s=PATIENCE_S) for _ in range(2))
    return first, second


async def test_what_a_killed_router_had_in_hand_is_answered_once_by_the_other(
    routers: tuple[RouterProcess, RouterProcess], sleeper_triton: TritonServer
) -> None:
    doomed, other = routers
    async with RetryingClient(routers, deadline_s=PATIENCE_S) as client:
        await client.ask_evenly(10, rate=1000, run="before")
        assert doomed.process is not None
        with on_hold(sleeper_triton):
            asking = asyncio.ensure_future(client.ask_evenly(40, rate=1000))
            await eventually(lambda: in_hand(doomed, 20), what="half of them to be in hand")
            doomed.process.kill()
            doomed.process.wait()
        await asking
        assert client.unanswered == {}
        assert client.tried_again == 20
        assert Counter(client.answers.values()) == {1: 50}
    await eventually(lambda: in_hand(other, 0), what="nothing to be in hand")


async def test_jobs_of_both_end_once_where_one_is_killed(routers: tuple[RouterProcess, RouterProcess]) -> None:
    doomed, other = routers
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        told = [
            (await client.post(f"{router.http_url}/v1/jobs", json={"prompt": EASY, "seed": seed})).json()
            for seed in range(8)
            for router in routers
        ]
        assert doomed.process is not None
        doomed.process.kill()
        doomed.process.wait()

        async def end_of(job: str) -> dict[str, object]:
            while True:
                reply = (await client.get(f"{other.http_url}/v1/jobs/{job}", params={"wait": 30})).json()
                if reply["finished_at"]:
                    return dict(reply)

        ends = await asyncio.wait_for(asyncio.gather(*(end_of(job["id"]) for job in told)), PATIENCE_S)
        assert Counter(str(end["status"]) for end in ends) == {"succeeded": 16}
        assert await asyncio.gather(*(end_of(job["id"]) for job in told)) == ends


async def test_a_rolling_restart_fails_no_request(routers: tuple[RouterProcess, RouterProcess]) -> None:
    failures: list[str] = []
    answers = Counter[str]()
    stopping = asyncio.Event()

    async def ask_by_grpc(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
        while not stopping.is_set():
            try:
                await stub.ModelInfer(message_of(), timeout=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                failures.append(f"gRPC: {error.code().name}: {error.details()}")
                return
            answers["gRPC"] += 1

    async def ask_by_http(client: httpx.AsyncClient, router: RouterProcess) -> None:
        while not stopping.is_set():
            try:
                body = {"prompt": EASY, "model": "shapes"}
                reply = await client.post(router.http_url + "/v1/images/generations", json=body)
            except httpx.ConnectError:
                # No load balancer sends anything there meanwhile.
                await eventually(lambda: asyncio.to_thread(router.is_ready), what="the router to be back")
                continue
            except httpx.HTTPError as error:
                failures.append(f"HTTP: {error!r}")
                return
            answers["HTTP"] += 1
            if reply.status_code != 200:
                failures.append(f"HTTP: {reply.text}")
                return

    addresses = "ipv4:" + ",".join(router.grpc for router in routers)
    options = (("grpc.service_config", BOTH), ("grpc.max_reconnect_backoff_ms", 500))
    channel = grpc.aio.insecure_channel(addresses, options=options)
    async with channel, httpx.AsyncClient(timeout=PATIENCE_S) as client:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asking = [ask_by_grpc(stub) for _ in range(4)] + [ask_by_http(client, router) for router in routers]
        tasks = [asyncio.ensure_future(work) for work in asking]
        for router in (*routers, routers[0]):
            await eventually(lambda: serves(router) or failures, what="gRPC to come here")  # noqa: B023
            enough = {protocol: answers[protocol] + 5 for protocol in ("gRPC", "HTTP")}
            await eventually(lambda: failures or all(answers[p] >= enough[p] for p in enough), what="answers")  # noqa: B023
            assert await asyncio.to_thread(router.stop) == 0
            await asyncio.to_thread(lambda: router.start().wait_ready())  # noqa: B023
            await eventually(lambda: serves(router) or failures, what="gRPC to come back")  # noqa: B023
        stopping.set()
        await asyncio.gather(*tasks)
    assert failures == []


async def test_a_request_on_its_way_over_an_idle_connection_is_answered_by_a_server_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("told")

    monkeypatch.setattr(http_protocol, "LAST_REQUEST_S", PATIENCE_S)
    server = HttpServer(Starlette(routes=[Route("/", page)]), setting="HERE")
    port = int((await server.start("127.0.0.1:0", None)).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    question = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
    writer.write(question)
    assert b"connection: close" not in await reader.readuntil(b"told")
    server.leave()
    await eventually(lambda: not listens(port), what="the port to be closed")
    writer.write(question)
    assert b"connection: close" in await reader.readuntil(b"told")
    assert await reader.read() == b""
    writer.close()
    await server.stop()


async def in_hand(router: RouterProcess, count: int) -> bool:
    metrics = (await asyncio.to_thread(router.get, "/metrics")).text
    return f"cascade_requests_in_hand {count}.0" in metrics


async def serves(router: RouterProcess) -> bool:
    """Whether a router has had gRPC requests since it was started."""
    return 'protocol="grpc"' in (await asyncio.to_thread(router.get, "/metrics")).text
