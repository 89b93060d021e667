"""Fixtures: a real router process on free ports, and plans for it to follow."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import redis
import tritonclient.grpc as triton

from cascade_api.names import CASCADE_INDEX
from cascade_api.plan import Plan
from cascade_api.worker_requests import model_of_weights
from support.plans import make_worker
from support.ports import free_port
from support.redis import RedisServer
from support.triton import TritonServer, model_of, parameters_of
from support.waiting import PATIENCE_S, wait_for

EASY = "a large red circle"
HARD = "a small red circle left of a small blue square above a small green triangle right of a small white cross"
EXECUTION_S = {"shapes-light": 0.004, "shapes-heavy": 0.06, "shapes-slow": 1.2}
_generations = itertools.count(int(time.time() * 1000))
_http = httpx.Client(timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0))
"""Made once: it reads the machine's certificates, which takes longer than a router takes to answer."""


def make_plan(
    replicas: Mapping[str, Sequence[str]],
    *,
    name: str = "shapes",
    direct: float = 0.4,
    escalation: float = 0.3,
    chain: Sequence[str] = ("shapes-light", "shapes-heavy"),
    seed_thresholds: Mapping[str, float] | None = None,
    batch: int = 4,
    execution_s: Mapping[str, float] = EXECUTION_S,
    size: str = "32x32",
    edits: Sequence[str] = (),
    **overrides: Any,
) -> Plan:
    """A plan of one row over pools of class cpu; its objective is one that a busy machine keeps, too.

    Args:
        replicas: endpoints by variant; replica ids are ``<variant>-<index>``.
        execution_s: seconds of a batch of one, by variant.
        edits: the variants that edit images.
    """
    row = {"share": 1, "chain": chain, "direct": direct, "escalation": escalation}
    if seed_thresholds is not None:
        row["seedThresholds"] = dict(seed_thresholds)
    classes = {
        variant: {"cpu": {"batch": batch, "executionS": {size: {n: execution_s[variant] * n for n in (1, batch)}}}}
        for variant in replicas
    }
    workers = [
        make_worker(f"{variant}-{index}", variant, endpoint=endpoint, credits=batch, weights=weights_of(variant))
        for variant, endpoints in replicas.items()
        for index, endpoint in enumerate(endpoints)
    ]
    document = {
        "generation": next(_generations),
        "cascade": f"default/{name}",
        "issuedAt": "2026-11-20T10:00:00Z",
        "reason": "InitialPlan",
        "objectiveS": PATIENCE_S,
        "attainment": 0.99,
        "overload": "degrade",
        "discriminator": "builtin://shapes",
        "sizes": [size],
        "variants": {
            variant: {
                "weights": weights_of(variant),
                "settings": settings_of(variant),
                "classes": times,
                "edits": variant in edits,
            }
            for variant, times in classes.items()
        },
        "rows": [row],
        "tiers": {
            "low": {"share": 1, "chain": chain, "direct": direct if len(chain) == 1 else 0, "escalation": 0},
            "high": {"share": 1, "chain": chain, "direct": 1, "escalation": 0},
        },
        "workers": workers,
        "expected": {"demand": 1, "latencyP99": 1, "quality": 0.9},
    }
    return Plan.model_validate({**document, **overrides})


def weights_of(variant: str) -> str:
    """Digest of the weights of one of `SHAPES`; for any other variant, its name."""
    return model_of(variant).removeprefix(model_of_weights(""))


def settings_of(variant: str) -> dict[str, Any]:
    """The settings of one of `SHAPES`; others take one step."""
    return parameters_of(variant) or {"steps": 1}


def publish(server: RedisServer, *plans: Plan) -> None:
    """Put plans in force, as the operator does."""
    with server.client() as client:
        for plan in plans:
            client.sadd(CASCADE_INDEX, plan.cascade)
            client.set(plan.ref.plan_key, plan.to_json())
            client.publish(plan.ref.plan_channel, str(plan.generation))


class RouterProcess:
    """`python -m cascade_router.main` with settings of our own; ``log`` is its output."""

    def __init__(self, redis_url: str, directory: Path, **settings: Any) -> None:
        self.log = directory / f"router-{free_port()}.log"
        self.grpc = f"127.0.0.1:{free_port()}"
        self.http_url = f"http://127.0.0.1:{free_port()}"
        self.environment = {
            **os.environ,
            "REDIS_URL": redis_url,
            "CASCADE_ROUTER_GRPC_ADDRESS": self.grpc,
            "CASCADE_ROUTER_HTTP_ADDRESS": self.http_url.removeprefix("http://"),
            **{f"CASCADE_ROUTER_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.ulimit = ""
        """Options of the shell's `ulimit` that it is started under."""
        self.process: subprocess.Popen[bytes] | None = None
        self._client: triton.InferenceServerClient | None = None

    @property
    def client(self) -> triton.InferenceServerClient:
        if self._client is None:
            self._client = triton.InferenceServerClient(self.grpc)
        return self._client

    def start(self, health_url: str | None = None) -> RouterProcess:
        """Start the process and wait until its HTTP side answers, or is ready at a health address of its own."""
        command = [sys.executable, "-m", "cascade_router.main"]
        if self.ulimit:
            command = ["sh", "-c", f'ulimit {self.ulimit} && exec "$@"', "sh", *command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        process = self.process
        url = f"{self.http_url}/healthz" if health_url is None else f"{health_url}/readyz"
        wait_for(lambda: process.poll() is not None or _answers(url), what="the router to answer")
        assert process.poll() is None, self.log.read_text()
        return self

    def wait_ready(self) -> RouterProcess:
        wait_for(self.is_ready, what="the router to be ready")
        return self

    def is_ready(self) -> bool:
        return _answers(f"{self.http_url}/readyz")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self._client is not None:
            self._client.close()
            self._client = None
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def get(self, path: str) -> httpx.Response:
        return _http.get(self.http_url + path)

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """Ask for images over HTTP."""
        return _http.post(self.http_url + "/v1/images/generations", json=body, **options)

    def ask(self, prompt: str | bytes = EASY, *, model: str = "shapes", seed: int | None = 1, **options: Any) -> Made:
        """Ask for one image over gRPC."""
        return Made(self.client.infer(model, inputs_of(prompt, seed=seed), **options))


def _answers(url: str) -> bool:
    try:
        return _http.get(url).status_code == 200
    except httpx.TransportError:
        return False


class Made:
    """An answer of the KServe service, read."""

    def __init__(self, result: triton.InferResult) -> None:
        self.result = result
        self.image = result.as_numpy("image")
        self.route = result.as_numpy("route")[0].decode()
        self.variant = result.as_numpy("variant")[0].decode()
        self.confidence = float(result.as_numpy("confidence")[0])
        self.hardness = float(result.as_numpy("hardness")[0])
        self.accelerator_s = float(result.as_numpy("accelerator_seconds")[0])


def inputs_of(prompt: str | bytes, *, seed: int | None = None) -> list[triton.InferInput]:
    """KServe inputs of one prompt."""
    data = prompt.encode() if isinstance(prompt, str) else prompt
    inputs = [triton.InferInput("prompt", [1], "BYTES")]
    inputs[0].set_data_from_numpy(np.array([data], dtype=np.object_))
    if seed is not None:
        inputs.append(triton.InferInput("seed", [1], "INT64"))
        inputs[1].set_data_from_numpy(np.array([seed], dtype=np.int64))
    return inputs


StartRouter = Callable[..., RouterProcess]


@pytest.fixture
def start_router(tmp_path: Path) -> Iterator[StartRouter]:
    """Starts routers: ``start_router(redis_server, plan, ..., setting=value)``; they end with the test.

    ``redis_url`` is another URL of that Redis.
    """
    routers: list[RouterProcess] = []

    def start(server: RedisServer, *plans: Plan, **settings: Any) -> RouterProcess:
        publish(server, *plans)
        router = RouterProcess(settings.pop("redis_url", server.url), tmp_path, **settings)
        routers.append(router)
        router.start()
        return router.wait_ready() if plans else router

    yield start
    for router in routers:
        if router.process is not None and router.process.poll() is None:
            router.stop()


@contextmanager
def on_hold(server: TritonServer) -> Iterator[None]:
    """What the server is asked stays under way inside the block, and is done after it.

    That goes for those who are connected: a router connects with the first image that it has made there.
    """
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    process.suspend()
    try:
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED, what="the server to be stopped")
        yield
    finally:
        process.resume()


@pytest.fixture(scope="session")
def shared_router(shared_triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    """One router for the whole run, with a Redis of its own; serves `shapes`. Not to be stopped or re-planned.

    Which prompts go direct depends on those that it had before, see `fresh_router`.
    """
    directory = tmp_path_factory.mktemp("router")
    redis_server = RedisServer(directory)
    redis_server.start()
    router = RouterProcess(redis_server.url, directory)
    try:
        publish(redis_server, _shared_plan(shared_triton))
        yield router.start().wait_ready()
    finally:
        router.stop()
        redis_server.kill()


@pytest.fixture
def fresh_router(shared_router: RouterProcess, shared_triton: TritonServer) -> RouterProcess:
    """The shared router in the state of a new one: an easy prompt gets a light image, and a hard one goes direct."""
    plan = _shared_plan(shared_triton)
    with redis.Redis.from_url(shared_router.environment["REDIS_URL"]) as client:
        client.delete(plan.ref.plan_key)
        client.publish(plan.ref.plan_channel, "0")
        wait_for(lambda: shared_router.get("/readyz").status_code == 503, what="the cascade to be withdrawn")
        client.set(plan.ref.plan_key, plan.to_json())
        client.publish(plan.ref.plan_channel, str(plan.generation))
    return shared_router.wait_ready()


def _shared_plan(server: TritonServer) -> Plan:
    replicas = {variant: [server.endpoint] for variant in ("shapes-light", "shapes-heavy")}
    # Strict: where the machine holds a replica up, it is waited for.
    thresholds = {"hardness": 2.0, "confidence": 0.01}
    return make_plan(replicas, escalation=0, overload="strict", seed_thresholds=thresholds)
