"""What the router does when a replica, Redis, a plan or the router itself goes away under it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tritonclient.utils import InferenceServerException

from cascade_api.names import CascadeRef
from cascade_api.report import RouterReport
from support.ports import free_port, listens
from support.processes import runs
from support.redis import RedisServer
from support.router import EASY, HARD, Made, RouterProcess, StartRouter, inputs_of, make_plan, on_hold, publish
from support.triton import LIGHT, TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

SHAPES = CascadeRef("default", "shapes")


class Traffic:
    """Clients that ask one prompt after the other until told to stop."""

    def __init__(self, router: RouterProcess, *, prompt: str, clients: int) -> None:
        self.routes = Counter[str]()
        self.refusals: list[str] = []
        self._router = router
        self._prompt = prompt
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    @property
    def answered(self) -> int:
        return self.routes.total()

    def more(self, count: int) -> None:
        """Wait until ``count`` more prompts were answered."""
        enough = self.answered + count
        wait_for(lambda: self.answered >= enough, what=f"{count} more answers (refused: {self.refusals[-3:]})")

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.routes[self._router.ask(self._prompt, seed=None).route] += 1
            except InferenceServerException as refused:
                self.refusals.append(f"{refused.status()}: {refused.message()}")

    @contextmanager
    def flowing(self) -> Iterator[Traffic]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


@pytest.fixture
def start_triton(shapes_models: Path, tmp_path: Path) -> Iterator[Callable[..., TritonServer]]:
    """Starts Triton servers of the test's own."""
    servers: list[TritonServer] = []

    def start(*load: str) -> TritonServer:
        server = TritonServer(shapes_models, tmp_path, load=load, replica_id=f"test-fault-{len(servers)}")
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


def test_work_of_a_killed_server_is_done_by_the_other_one_and_the_dead_one_comes_back(
    redis_server: RedisServer, start_triton: Callable[..., TritonServer], start_router: StartRouter
) -> None:
    servers = [start_triton("shapes-light"), start_triton("shapes-light")]
    endpoints = {"shapes-light": [server.endpoint for server in servers], "shapes-heavy": []}
    router = start_router(redis_server, make_plan(endpoints, direct=0, escalation=0))
    with Traffic(router, prompt=EASY, clients=6).flowing() as traffic:
        traffic.more(50)
        assert servers[0].process is not None
        servers[0].process.kill()
        servers[0].process.wait()
        traffic.more(100)
        unhealthy = 'cascade_replica_healthy{cascade="default/shapes",replica="shapes-light-0"} 0.0'
        wait_for(lambda: unhealthy in metrics(router), what="the replica to be ejected")
        served = servers[1].statistics("shapes-light").inference_stats.success.count
        assert served > 50
        servers[0].start()
        healthy = 'cascade_replica_healthy{cascade="default/shapes",replica="shapes-light-0"} 1.0'
        wait_for(lambda: healthy in metrics(router), what="the replica to be trusted again")
        traffic.more(50)
    assert traffic.refusals == []
    assert set(traffic.routes) == {"light"}
    for segment in servers[0].segments():
        segment.unlink(missing_ok=True)


def test_a_dead_model_behind_a_live_server_is_found_by_a_real_inference(
    redis_server: RedisServer, start_triton: Callable[..., TritonServer], start_router: StartRouter
) -> None:
    servers = [start_triton("shapes-light"), start_triton("shapes-light")]
    endpoints = {"shapes-light": [server.endpoint for server in servers]}
    router = start_router(redis_server, make_plan(endpoints, direct=0, escalation=0))
    with Traffic(router, prompt=EASY, clients=4).flowing() as traffic:
        traffic.more(20)
        servers[0].stub("shapes-light").kill()
        unhealthy = 'cascade_replica_healthy{cascade="default/shapes",replica="shapes-light-0"} 0.0'
        wait_for(lambda: unhealthy in metrics(router), what="the replica to be ejected")
        traffic.more(50)
        if servers[0].process is not None and servers[0].process.poll() is None:
            servers[0].client.unload_model(LIGHT)
            servers[0].client.load_model(LIGHT)
        else:
            # About one in ten servers (2.51) ends with a model that dies while it answers.
            servers[0].start()
        wait_for(lambda: unhealthy not in metrics(router), what="the replica to be trusted again")
        traffic.more(20)
    assert traffic.refusals == []


@pytest.mark.parametrize(
    ("dead", "direct", "before", "after"), [("light", 0, "light", "direct"), ("heavy", 1, "direct", "degraded")]
)
def test_what_a_dead_model_leaves_waiting_the_other_one_makes(
    dead: str,
    direct: float,
    before: str,
    after: str,
    redis_server: RedisServer,
    start_triton: Callable[..., TritonServer],
    start_router: StartRouter,
) -> None:
    servers = {model: start_triton(model) for model in ("shapes-light", "shapes-heavy")}
    endpoints = {model: [server.endpoint] for model, server in servers.items()}
    router = start_router(redis_server, make_plan(endpoints, direct=direct, escalation=0, batch=1))
    with Traffic(router, prompt=EASY, clients=12).flowing() as traffic:
        traffic.more(50)
        assert set(traffic.routes) == {before}
        servers[f"shapes-{dead}"].stub(f"shapes-{dead}").kill()
        wait_for(lambda: traffic.routes[after] >= 50, what=f"answers of the other model ({traffic.refusals[-3:]})")
        assert f'replica="shapes-{dead}-0"}} 0.0' in metrics(router)
    assert traffic.refusals == []


def test_what_a_model_that_stands_still_had_in_hand_is_made_elsewhere(
    redis_server: RedisServer, start_triton: Callable[..., TritonServer], start_router: StartRouter
) -> None:
    servers = [start_triton("shapes-light"), start_triton("shapes-light")]
    endpoints = {"shapes-light": [server.endpoint for server in servers]}
    router = start_router(redis_server, make_plan(endpoints, direct=0, escalation=0))
    with Traffic(router, prompt=EASY, clients=4).flowing() as traffic:
        traffic.more(20)
        stub = servers[0].stub("shapes-light")
        stub.suspend()
        wait_for(lambda: not runs(stub), what="the model's process to be ended")
        traffic.more(50)
    assert traffic.refusals == []
    assert servers[1].process is not None
    assert servers[1].process.poll() is None


def test_traffic_flows_on_without_redis_and_with_an_empty_one(
    mortal_redis: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    endpoints = {"shapes-light": [shared_triton.endpoint], "shapes-heavy": [shared_triton.endpoint]}
    plan = make_plan(endpoints, direct=0, escalation=0)
    router = start_router(mortal_redis, plan)
    with Traffic(router, prompt=EASY, clients=4).flowing() as traffic:
        traffic.more(50)
        mortal_redis.kill()
        traffic.more(100)
        assert router.get("/readyz").status_code == 200
        mortal_redis.start()
        traffic.more(20)
        publish(mortal_redis, make_plan(endpoints, direct=1, overload="strict"))
        wait_for(lambda: traffic.routes["direct"] > 3, what="the new plan to be followed")
    assert traffic.refusals == []


def test_a_change_of_plan_under_load_refuses_nobody(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    endpoints = {"shapes-light": [shared_triton.endpoint], "shapes-heavy": [shared_triton.endpoint]}
    router = start_router(redis_server, make_plan(endpoints, direct=0, escalation=0))
    with Traffic(router, prompt=EASY, clients=4).flowing() as traffic:
        for direct in (1, 0, 1):
            traffic.more(10)
            publish(redis_server, make_plan(endpoints, direct=direct, escalation=0, overload="strict"))
            route = "direct" if direct else "light"
            already = traffic.routes[route]
            wait_for(lambda: traffic.routes[route] > already + 3, what=f"prompts to go {route}")  # noqa: B023
    assert traffic.refusals == []


def test_before_the_first_plan_requests_are_refused_as_unavailable(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    router = start_router(redis_server)
    with redis_server.client() as client:
        client.sadd("cascades", "default/shapes", "nonsense")
        client.set(SHAPES.plan_key, '{"schema": 7}')
    assert router.get("/readyz").status_code == 503
    wait_for(lambda: "not a plan" in router.log.read_text(), what="the malformed plan to be found")
    assert "no plan has been published yet" in router.get("/readyz").text
    wait_for(lambda: router.get("/startedz").status_code == 200, what="the router to know that there is none")
    publish(redis_server, make_plan({"shapes-light": [], "shapes-heavy": []}))
    wait_for(lambda: "no replica is ready" in router.get("/readyz").text, what="the plan to be followed")
    with pytest.raises(InferenceServerException, match="no replica of the light model is ready") as refused:
        router.ask(EASY)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    plan = make_plan({"shapes-light": [shared_triton.endpoint], "shapes-heavy": []}, direct=0, escalation=0)
    publish(redis_server, plan)
    router.wait_ready()
    assert router.ask(EASY).route == "light"


def test_without_redis_at_start_it_says_so_and_mends_itself(
    mortal_redis: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    mortal_redis.kill()
    router = start_router(mortal_redis)
    wait_for(lambda: "Redis cannot be reached" in router.get("/readyz").text, what="the reason to show")
    with pytest.raises(InferenceServerException, match="no plan") as refused:
        router.ask(EASY)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    assert router.get("/startedz").status_code == 503
    mortal_redis.start()
    publish(mortal_redis, make_plan({"shapes-light": [shared_triton.endpoint]}, direct=0, escalation=0))
    router.wait_ready()
    assert router.get("/startedz").status_code == 200
    assert router.ask(EASY).route == "light"


def test_demand_and_reports_reach_redis(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    endpoints = {"shapes-light": [shared_triton.endpoint], "shapes-heavy": [shared_triton.endpoint]}
    plan = make_plan(endpoints, direct=0.05, escalation=0.05)
    router = start_router(redis_server, plan, router_id="router-7")
    for prompt in [EASY] * 59 + [HARD]:
        router.ask(prompt)
    with pytest.raises(InferenceServerException):
        router.ask("a purple dragon")

    with redis_server.client() as client:

        def report() -> RouterReport | None:
            document: str | None = client.get(SHAPES.scores_key("router-7"))  # type: ignore[assignment]
            seen = RouterReport.model_validate_json(document) if document else None
            return seen if seen and seen.refusals and not seen.store_away else None

        def demand() -> dict[str, str]:
            return client.hgetall(SHAPES.demand_key)  # type: ignore[return-value]

        seen = wait_for(report, what="the report")
        wait_for(lambda: sum(map(int, demand().values())) == 61, what="the demand")
        assert all(abs(int(second) - time.time()) < 600 for second in demand())
        assert 0 < client.ttl(SHAPES.demand_key) <= 600  # type: ignore[operator]
        assert client.zscore(SHAPES.routers_key, "router-7") is not None
    assert (seen.received, seen.plan_generation, seen.violations) == (61, plan.generation, 0)
    assert all(0 < count <= seen.routes[route] for route, count in seen.recent_routes.items())
    assert sum(seen.routes.values()) == 60
    assert set(seen.routes) >= {"light", "direct"}
    assert dict(seen.refusals) == {"Invalid": 1}
    assert seen.latency_p50_s is not None
    assert seen.latency_p99_s is not None
    assert len(seen.hardness) == len(seen.confidence["shapes-light"]) == 21
    (light,) = plan.pools_of("shapes-light")
    assert seen.batch_times[light.name].images == 1
    assert 0 < seen.batch_times[light.name].seconds < PATIENCE_S


def test_sigterm_finishes_the_work_in_hand_and_takes_no_more(
    redis_server: RedisServer, shared_triton: TritonServer, start_router: StartRouter
) -> None:
    endpoints = {"shapes-light": [shared_triton.endpoint], "shapes-heavy": [shared_triton.endpoint]}
    health = f"127.0.0.1:{free_port()}"
    plan = make_plan(endpoints, direct=1, overload="strict")
    router = start_router(redis_server, plan, health_address=health, drain_s=PATIENCE_S)
    router.ask(HARD)
    answers: list[Any] = []
    process = router.process
    assert process is not None
    with on_hold(shared_triton):
        router.client.async_infer(
            "shapes", inputs_of(HARD), callback=lambda result, error: answers.append(error or result)
        )
        wait_for(lambda: "cascade_requests_in_hand 1.0" in metrics(router), what="the request to be under way")
        process.send_signal(signal.SIGTERM)
        wait_for(
            lambda: "shutting down" in httpx.get(f"http://{health}/readyz", timeout=PATIENCE_S).text,
            what="readiness to go",
        )
        for address in (router.grpc, router.http_url):
            wait_for(lambda: not listens(int(address.rpartition(":")[2])), what=f"{address} to be closed")  # noqa: B023
        with pytest.raises(InferenceServerException) as refused:
            router.ask(EASY)
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        assert answers == []
    assert process.wait(PATIENCE_S) == 0
    wait_for(lambda: answers, what="the answer to be read")
    assert Made(answers[0]).route == "direct"
    events = [json.loads(line)["event"] for line in router.log.read_text().splitlines()]
    assert events[-1] == "stopping"


@pytest.mark.parametrize("setting", ["CASCADE_ROUTER_GRPC_ADDRESS", "CASCADE_ROUTER_HTTP_ADDRESS"])
def test_a_port_in_use_is_one_clear_line_and_exit_code_2(
    redis_server: RedisServer, tmp_path: Path, setting: str
) -> None:
    router = RouterProcess(redis_server.url, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = run_to_the_end(router, **{setting: address})
    assert code == 2
    problem = f"{setting}: cannot listen on {address}: the port is in use"
    assert line == f"cascade-router: {problem}; stop what listens there or choose another"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "CASCADE_ROUTER_GRPC_ADDRESS",
            "8001",
            "CASCADE_ROUTER_GRPC_ADDRESS: '8001' is not HOST:PORT; write for example 127.0.0.1:8001",
        ),
        (
            "CASCADE_ROUTER_QUEUE_LIMIT",
            "0",
            "setting CASCADE_ROUTER_QUEUE_LIMIT: Input should be greater than or equal to 1",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(
    redis_server: RedisServer, tmp_path: Path, name: str, value: str, said: str
) -> None:
    code, line = run_to_the_end(RouterProcess(redis_server.url, tmp_path), **{name: value})
    assert (code, line) == (2, f"cascade-router: {said}")


def run_to_the_end(router: RouterProcess, **environment: str) -> tuple[int, str]:
    """Exit code and last line of a router that cannot start."""
    run = subprocess.run(
        [Path(sys.executable).parent / "cascade-router"],
        env={**router.environment, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "Traceback" not in run.stderr
    return run.returncode, run.stderr.splitlines()[-1]


def metrics(router: RouterProcess) -> str:
    return router.get("/metrics").text
