"""Ray Serve running the same two stages, beside the router in the same run: requests per CPU-second of each."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from support.ports import free_port
from support.retrying import message_of

from .router_setup import ESCALATION, HEAVY, LIGHT, SECONDS, Bench, calls_to, cpu_of, in_turns, process_of, two_stages

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-ray" / "bin" / "python"
APP = Path(__file__).parent / "ray_app.py"
REQUESTS = 2000
CONCURRENCY = 64
ROUTING = ("ray::ProxyActor", "ray::ServeReplica:default:Composition")
"""Titles of the processes that do what the router does; those of the stages, and Ray's own servers, are left out."""


@contextmanager
def _ray(port: int) -> Iterator[list[psutil.Process]]:
    """Processes of the application that route."""
    command = [str(PYTHON), str(APP), str(port), str(ESCALATION), str(SECONDS[LIGHT]), str(SECONDS[HEAVY])]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as app:
        assert app.stdout is not None
        assert app.stdin is not None
        try:
            for line in app.stdout:
                if line == "serving\n":
                    break
            else:
                raise SystemExit("Ray Serve did not start")
            started = psutil.Process(app.pid).create_time()
            mine = [p for p in psutil.process_iter(["cmdline"]) if p.create_time() >= started]
            yield [p for p in mine if (p.info["cmdline"] or [""])[0].startswith(ROUTING)]
        finally:
            app.stdin.close()
            app.wait(60)


def compare(bench: Bench, *, runs: int) -> None:
    """Both in turns, the same requests over the same protocol."""
    _, router = two_stages(bench)
    port = free_port()
    with _ray(port) as routing:
        assert len(routing) == len(ROUTING), routing

        async def rate(address: str, processes: list[psutil.Process]) -> float:
            async with calls_to(address) as call:
                await in_turns(call, message_of(), concurrency=16, requests=200)
                with cpu_of(*processes) as spent:
                    await in_turns(call, message_of(), concurrency=CONCURRENCY, requests=REQUESTS)
            return REQUESTS / spent[0]

        ratios = []
        for run in range(runs):
            ours = asyncio.run(rate(router.grpc, [process_of(router)]))
            theirs = asyncio.run(rate(f"127.0.0.1:{port}", routing))
            ratios.append(ours / theirs)
            print(f"  run {run + 1}: router {ours:.0f} requests per CPU-second, Ray Serve {theirs:.0f}")
    print(f"against Ray Serve, median of {runs} runs: {statistics.median(ratios):.1f} times (target 2)")
