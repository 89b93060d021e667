"""What the router's benchmarks share: a real Triton whose models sleep, a real Valkey, routers, and loads for them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from tritonclient.grpc import service_pb2_grpc

from cascade_api.plan import Plan
from support.redis import RedisServer
from support.router import RouterProcess, make_plan, publish
from support.sleepers import write_sleepers
from support.triton import TritonServer

LIGHT, HEAVY = "shapes-light", "shapes-heavy"
SECONDS = {LIGHT: 0.01, HEAVY: 0.02}
"""What the stages of `two_stages` take for a batch."""
REPLICAS, ESCALATION = 4, 0.2
ONCE = "once"
"""Name of the cascade that escalates nothing."""
Call = Callable[[Any], Awaitable[Any]]


@dataclass
class Bench:
    """Where a benchmark starts its processes; they end with it."""

    directory: Path
    redis: RedisServer
    _stack: ExitStack = field(repr=False)

    def triton(self, seconds: Mapping[str, float], *, name: str = "bench", **options: int) -> TritonServer:
        """A server whose models sleep for so many seconds per batch."""
        models = write_sleepers(self.directory / f"models-{name}", seconds, **options)
        server = TritonServer(models, self.directory, load=tuple(seconds), replica_id=name)
        self._stack.callback(server.stop)
        return server.start()

    def router(self, plan: Plan, **settings: Any) -> RouterProcess:
        """A ready router that follows a plan."""
        publish(self.redis, plan)
        router = RouterProcess(self.redis.url, self.directory, **settings)
        self._stack.callback(_end, router)
        return router.start().wait_ready()


def _end(router: RouterProcess) -> None:
    if router.process is not None and router.process.poll() is None:
        router.process.kill()
        router.process.wait()


@contextmanager
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        server = RedisServer(Path(name))
        server.start()
        stack.callback(server.kill)
        yield Bench(Path(name), server, stack)


@asynccontextmanager
async def calls_to(address: str) -> AsyncIterator[Call]:
    """`ModelInfer` of a server."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer


@dataclass(frozen=True)
class Ended:
    """How one request ended: after how many seconds, and with which status."""

    seconds: float
    status: str

    @property
    def answered(self) -> bool:
        return self.status == "OK"


async def at_rate(call: Call, request: Any, *, rate: float, seconds: float) -> list[Ended]:
    """How evenly spaced requests ended."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one() -> Ended:
        sent = loop.time()
        try:
            await call(request)
        except grpc.aio.AioRpcError as error:
            return Ended(loop.time() - sent, error.code().name)
        return Ended(loop.time() - sent, "OK")

    tasks = []
    for index in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
        tasks.append(asyncio.ensure_future(one()))
    return list(await asyncio.gather(*tasks))


async def in_turns(call: Call, request: Any, *, concurrency: int, requests: int) -> None:
    """As many requests as there are, so many at a time; all have to be answered."""
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            await call(request)

    await asyncio.gather(*(client() for _ in range(concurrency)))


def two_stages(bench: Bench) -> tuple[TritonServer, RouterProcess]:
    """A server of both stages, and a router over it.

    It serves a cascade `shapes` that has a fifth of the prompts made twice, and `once` that has none.
    """
    triton = bench.triton(SECONDS)
    replicas = {variant: [triton.endpoint] * REPLICAS for variant in SECONDS}
    options = {"direct": 0, "batch": 8, "execution_s": SECONDS}
    publish(bench.redis, make_plan(replicas, name=ONCE, escalation=0, **options))
    return triton, bench.router(make_plan(replicas, escalation=ESCALATION, **options))


def process_of(router: RouterProcess) -> psutil.Process:
    assert router.process is not None
    return psutil.Process(router.process.pid)


@contextmanager
def cpu_of(*processes: psutil.Process) -> Iterator[list[float]]:
    """CPU seconds that processes spend in the block, then wall seconds; filled in at its end."""
    spent: list[float] = []
    before, began = _cpu_s(processes), time.perf_counter()
    yield spent
    spent += [_cpu_s(processes) - before, time.perf_counter() - began]


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)
