"""What the router costs: `make bench-router` prints latency added to direct Triton, and requests per CPU-second.

A real Triton with models that sleep, a real Valkey, one router process; the load comes from this process.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.redis import RedisServer
from support.router import EASY, RouterProcess, make_plan, publish
from support.sleepers import write_sleepers
from support.triton import TritonServer

LIGHT, HEAVY = "shapes-light", "shapes-heavy"
SECONDS = {LIGHT: 0.01, HEAVY: 0.02}
REPLICAS = 4
Call = Callable[[Any], Awaitable[Any]]


def request_of(model: str, *outputs: str) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    shape = [1] if model == "shapes" else [1, 1]
    request.inputs.add(name="prompt", datatype="BYTES", shape=shape).contents.bytes_contents.append(EASY.encode())
    for output in outputs:
        request.outputs.add(name=output)
    return request


async def at_rate(call: Call, request: Any, *, rate: float, seconds: float) -> list[float]:
    """Seconds that each of evenly spaced requests took."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one() -> float:
        sent = loop.time()
        await call(request)
        return loop.time() - sent

    tasks = []
    for index in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
        tasks.append(asyncio.ensure_future(one()))
    return list(await asyncio.gather(*tasks))


async def in_turns(call: Call, request: Any, *, concurrency: int, requests: int) -> None:
    """As many requests as there are, so many at a time."""
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            await call(request)

    await asyncio.gather(*(client() for _ in range(concurrency)))


def stub_of(channel: grpc.aio.Channel) -> Call:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer


async def added_latency(direct: Call, routed: Call, *, runs: int, seconds: float) -> None:
    """Paired runs at 50 requests a second: the light model asked directly, and through the router."""
    medians, tails = [], []
    for run in range(runs):
        straight = await at_rate(direct, request_of(LIGHT, "image", "confidence"), rate=50, seconds=seconds)
        through = await at_rate(routed, request_of("shapes"), rate=50, seconds=seconds)
        cuts = [statistics.quantiles(sample, n=100) for sample in (straight, through)]
        medians.append((cuts[1][49] - cuts[0][49]) * 1000)
        tails.append((cuts[1][98] - cuts[0][98]) * 1000)
        print(f"  run {run + 1}: direct p50 {cuts[0][49] * 1000:.2f} ms, added {medians[-1]:.2f}, p99 {tails[-1]:+.2f}")
    print(f"added latency at 50/s, medians of {runs} runs: p50 {statistics.median(medians):.2f} ms (target 2),")
    print(f"  difference of the p99s {statistics.median(tails):.2f} ms (target 8)")


async def throughput(routed: Call, process: psutil.Process, *, runs: int, requests: int) -> None:
    """Two stages, a fifth escalates: requests per second of the router's CPU."""
    rates = []
    for run in range(runs):
        before, began = process.cpu_times(), time.perf_counter()
        await in_turns(routed, request_of("shapes"), concurrency=64, requests=requests)
        after, wall_s = process.cpu_times(), time.perf_counter() - began
        cpu_s = after.user + after.system - before.user - before.system
        rates.append(requests / cpu_s)
        print(f"  run {run + 1}: {rates[-1]:.0f} requests per CPU-second ({requests / wall_s:.0f}/s on the clock)")
    print(f"throughput, median of {runs} runs: {statistics.median(rates):.0f} requests per CPU-second (target 800)")


async def measure(router: RouterProcess, triton: TritonServer, arguments: argparse.Namespace) -> None:
    async with (
        grpc.aio.insecure_channel(triton.endpoint) as straight,
        grpc.aio.insecure_channel(router.grpc) as through,
    ):
        direct, routed = stub_of(straight), stub_of(through)
        await in_turns(routed, request_of("shapes"), concurrency=16, requests=500)
        assert router.process is not None
        if arguments.section in ("all", "throughput"):
            await throughput(routed, psutil.Process(router.process.pid), runs=arguments.runs, requests=3000)
        if arguments.section in ("all", "latency"):
            await added_latency(direct, routed, runs=arguments.runs, seconds=10)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--section", choices=["all", "throughput", "latency"], default="all")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        redis_server = RedisServer(directory)
        triton = TritonServer(write_sleepers(directory / "models", SECONDS), directory, load=(LIGHT, HEAVY))
        redis_server.start()
        try:
            triton.start()
            replicas = {variant: [triton.endpoint] * REPLICAS for variant in (LIGHT, HEAVY)}
            publish(redis_server, make_plan(replicas, direct=0, escalation=0.2, batch=8, execution_s=SECONDS))
            router = RouterProcess(redis_server.url, directory)
            try:
                router.start().wait_ready()
                asyncio.run(measure(router, triton, arguments))
            finally:
                router.stop()
        finally:
            triton.stop()
            redis_server.kill()


if __name__ == "__main__":
    main()
