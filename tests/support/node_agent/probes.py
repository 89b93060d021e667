"""Probes and lifecycle handlers: exec, httpGet, tcpSocket, grpc and sleep, as a kubelet does them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

Object = dict[str, Any]
Execute = Callable[[list[str]], Awaitable[int]]
"""Runs a command inside the container; its exit code."""


async def act(handler: Object, *, container: Object, address: str, execute: Execute, within_s: float) -> bool:
    """Do what a probe or a handler says; whether it went well and in time."""
    with contextlib.suppress(TimeoutError, OSError, httpx.HTTPError, grpc.RpcError):
        return await asyncio.wait_for(_act(handler, container, address, execute, within_s), within_s)
    return False


async def _act(handler: Object, container: Object, address: str, execute: Execute, within_s: float) -> bool:
    if "exec" in handler:
        return await execute(handler["exec"]["command"]) == 0
    if "httpGet" in handler:
        target = handler["httpGet"]
        host, port = target.get("host") or address, port_of(target["port"], container)
        url = f"{target.get('scheme', 'HTTP').lower()}://{host}:{port}{target.get('path', '/')}"
        headers = {header["name"]: header["value"] for header in target.get("httpHeaders") or ()}
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=within_s) as client:  # noqa: S501
            return 200 <= (await client.get(url, headers=headers)).status_code < 400
    if "tcpSocket" in handler:
        target = handler["tcpSocket"]
        _, writer = await asyncio.open_connection(target.get("host") or address, port_of(target["port"], container))
        writer.close()
        return True
    if "grpc" in handler:
        async with grpc.aio.insecure_channel(f"{address}:{handler['grpc']['port']}") as channel:
            request = health_pb2.HealthCheckRequest(service=handler["grpc"].get("service") or "")
            answer = await health_pb2_grpc.HealthStub(channel).Check(request)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    if "sleep" in handler:
        await asyncio.sleep(handler["sleep"]["seconds"])
        return True
    raise ValueError(f"the node agent knows no such probe: {handler}")


def port_of(port: int | str, container: Object) -> int:
    """A port by number or by the container's name for it."""
    named = {entry.get("name"): entry["containerPort"] for entry in container.get("ports") or ()}
    return named[port] if port in named else int(port)


async def repeat(
    probe: Object, *, attempt: Callable[[], Awaitable[bool]], passed: Callable[[], None], failed: Callable[[], None]
) -> None:
    """Probe for ever; ``passed`` and ``failed`` are called each time a threshold is reached."""
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    successes = failures = 0
    while True:
        if await attempt():
            successes, failures = successes + 1, 0
            if successes >= probe.get("successThreshold", 1):
                passed()
        else:
            successes, failures = 0, failures + 1
            if failures >= probe.get("failureThreshold", 3):
                failed()
        await asyncio.sleep(probe.get("periodSeconds", 10))
