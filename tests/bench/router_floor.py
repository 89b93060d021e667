"""What gRPC alone costs: a bare asyncio server that hands each prompt on to Triton, or only waits; no queue, no Redis.

As a program it is that server: ``python -m bench.router_floor PORT TRITON``.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio
import psutil
import uvloop
from tritonclient.grpc import service_pb2_grpc

from cascade_router.pools.clients import PIXELS, Prompt, infer_request
from support.ports import free_port
from support.retrying import message_of

from .router_setup import ESCALATION, HEAVY, LIGHT, Bench, calls_to, cpu_of, in_turns, process_of, two_stages

REQUESTS = 2000
CONCURRENCY = 64
WAITING, AT_ONCE = 4000, 250
WAITS = "wait"
"""Model name of calls that are never answered."""


class _Proxy(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_name == WAITS:
            await asyncio.get_running_loop().create_future()
        answer = None
        for variant in (LIGHT, HEAVY) if random.random() < ESCALATION else (LIGHT,):
            asked = infer_request(
                variant=variant,
                prompt=Prompt("a red circle"),
                form=PIXELS,
                confidence=True,
                request_id="",
                size=(32, 32),
            )
            answer = await self._triton.ModelInfer(asked, timeout=10)
        return answer


async def _serve(port: str, triton: str) -> None:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Proxy(grpc.aio.insecure_channel(triton)), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()


@contextmanager
def _bare(triton: str) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a bare server."""
    port = str(free_port())
    command = [sys.executable, "-m", "bench.router_floor", port, triton]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            server.stdout.readline()
            yield f"127.0.0.1:{port}", psutil.Process(server.pid)
        finally:
            server.kill()


def compare(bench: Bench, *, runs: int) -> None:
    """CPU of the router and of the bare server in turns, then the memory of calls that wait in the bare one."""
    triton, router = two_stages(bench)
    with _bare(triton.endpoint) as (address, process):

        async def cost_ms(address: str, process: psutil.Process) -> float:
            async with calls_to(address) as call:
                await in_turns(call, message_of(), concurrency=16, requests=200)
                with cpu_of(process) as spent:
                    await in_turns(call, message_of(), concurrency=CONCURRENCY, requests=REQUESTS)
            return spent[0] / REQUESTS * 1000

        async def waiting_kb() -> float:
            message = message_of()
            message.model_name = WAITS
            before = process.memory_info().rss
            async with calls_to(address) as call:
                asked: list[asyncio.Future[Any]] = []
                for _ in range(WAITING // AT_ONCE):
                    asked += [asyncio.ensure_future(call(message)) for _ in range(AT_ONCE)]
                    await asyncio.sleep(0.5)
                after = process.memory_info().rss
                assert not any(each.done() for each in asked)
                for each in asked:
                    each.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            return (after - before) / len(asked) / 1000

        shares = []
        for run in range(runs):
            ours, bare = asyncio.run(cost_ms(router.grpc, process_of(router))), asyncio.run(cost_ms(address, process))
            shares.append(bare / ours)
            print(f"  run {run + 1}: router {ours:.2f} ms of CPU per request, gRPC alone {bare:.2f} ms", flush=True)
        print(f"gRPC alone, median of {runs} runs: {statistics.median(shares):.0%} of the router's CPU")
        print(f"  memory of a call that waits in it: {asyncio.run(waiting_kb()):.0f} kB")


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:3]))
