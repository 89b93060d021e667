"""What the router costs: latency that it adds, requests per CPU-second, Redis round trips, memory of a long queue."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence

from support.retrying import message_of
from support.router import make_plan

from .router_setup import (
    ESCALATION,
    LIGHT,
    ONCE,
    Bench,
    Call,
    Ended,
    at_rate,
    calls_to,
    cpu_of,
    in_turns,
    process_of,
    two_stages,
)

REQUESTS = 3000
QUEUED = 10_000


def _direct_request() -> object:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=LIGHT)
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"a red circle")
    for output in ("image", "confidence"):
        request.outputs.add(name=output)
    return request


def _cuts(ended: Sequence[Ended]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles([each.seconds * 1000 for each in ended], n=100)
    return cuts[49], cuts[98]


async def _latency(direct: Call, routed: Call, *, runs: int, seconds: float) -> None:
    """Both answer with one light image: what escalates would be another request than the direct one."""
    added, message = [], message_of()
    message.model_name = ONCE
    await in_turns(routed, message, concurrency=16, requests=500)
    for run in range(runs):
        straight = _cuts(await at_rate(direct, _direct_request(), rate=50, seconds=seconds))
        through = _cuts(await at_rate(routed, message, rate=50, seconds=seconds))
        added.append((through[0] - straight[0], through[1] - straight[1]))
        print(f"  run {run + 1}: direct p50 {straight[0]:.2f} ms, added {added[-1][0]:.2f}, p99 {added[-1][1]:+.2f}")
    medians = [statistics.median(column) for column in zip(*added, strict=True)]
    print(f"added latency at 50/s, medians of {runs} runs: p50 {medians[0]:.2f} ms (target 2),")
    print(f"  difference of the p99s {medians[1]:.2f} ms (target 8)")


def measure(bench: Bench, *, runs: int, latency: bool, throughput: bool) -> None:
    """Latency of one router over models that sleep, and its throughput where a fifth of the prompts is made twice."""
    triton, router = two_stages(bench)
    process = process_of(router)

    async def all_of_it() -> None:
        async with calls_to(triton.endpoint) as direct, calls_to(router.grpc) as routed:
            await in_turns(routed, message_of(), concurrency=16, requests=500)
            if throughput:
                rates = []
                for run in range(runs):
                    with bench.redis.client() as client:
                        client.config_resetstat()
                        with cpu_of(process) as spent:
                            await in_turns(routed, message_of(), concurrency=64, requests=REQUESTS)
                        calls = sum(s["calls"] for name, s in client.info("commandstats").items() if "evalsha" in name)
                    rates.append(REQUESTS / spent[0])
                    per_stage = calls / REQUESTS / (1 + ESCALATION)
                    print(
                        f"  run {run + 1}: {rates[-1]:.0f} requests per CPU-second ({REQUESTS / spent[1]:.0f}/s on the"
                        f" clock), {per_stage:.2f} calls of Redis per request and stage"
                    )
                print(f"throughput, median of {runs} runs: {statistics.median(rates):.0f} per CPU-second (target 800)")
                print(f"  calls of Redis per request and stage: {per_stage:.2f} (target: at most 2)")
            if latency:
                await _latency(direct, routed, runs=runs, seconds=10)

    asyncio.run(all_of_it())


def memory(bench: Bench) -> None:
    """Resident memory of a router with ten thousand requests waiting."""
    seconds = {LIGHT: 300.0}
    triton = bench.triton(seconds, name="memory", batch=1, instances=1)
    plan = make_plan({LIGHT: [triton.endpoint]}, direct=0, escalation=0, batch=1, execution_s={LIGHT: 0.01})
    plan = plan.model_copy(update={"objective_s": 600.0})
    router = bench.router(plan, queue_limit=2 * QUEUED)
    process = process_of(router)

    async def in_hand() -> float:
        text = (await asyncio.to_thread(router.get, "/metrics")).text
        return float(
            next(line for line in text.splitlines() if line.startswith("cascade_requests_in_hand ")).rpartition(" ")[2]
        )

    async def fill() -> tuple[float, float]:
        before = process.memory_info().rss / 1e6
        asked: list[asyncio.Future[object]] = []
        async with calls_to(router.grpc) as call:
            while len(asked) <= QUEUED:
                # gRPC itself turns away what comes faster than it is taken up.
                asked += [asyncio.ensure_future(call(message_of(deadline_ms=600_000))) for _ in range(250)]
                while await in_hand() < len(asked):
                    assert not any(each.done() for each in asked), next(each for each in asked if each.done())
                    await asyncio.sleep(0.05)
            await asyncio.sleep(5)  # heartbeats of the long queue
            after = process.memory_info().rss / 1e6
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return before, after

    before, after = asyncio.run(fill())
    print(f"memory with {QUEUED} requests waiting: {after:.0f} MB (target 200); {before:.0f} MB before")
