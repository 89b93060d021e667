"""What images cost the router: CPU, latency and memory per request, beside a bare proxy that passes the same bytes.

As a program it is that proxy: ``python -m bench.router_images GRPC_PORT HTTP_PORT TRITON``. Over gRPC it returns what
Triton answered, over HTTP the same JSON as the router; it has no queue, no Redis, no deadlines and no bound.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import httpx
import psutil
import uvicorn
import uvloop
from tritonclient.grpc import service_pb2_grpc

from cascade_router.pools.clients import PIXELS, PNG_FILE, ImageForm, Prompt, infer_request, read_image
from support.ports import free_port
from support.retrying import message_of
from support.router import RouterProcess, make_plan

from .router_setup import LIGHT, Bench, cpu_of, process_of

SIDES: Final = (32, 1024, 2048)
FORMS: Final = {"raw": PIXELS, "png": PNG_FILE, "jpeg": ImageForm(encoded="jpeg")}
CONCURRENCY: Final = 8
REQUESTS: Final = {32: 400, 1024: 80, 2048: 40}
MODEL_S: Final = 0.01
AT_ONCE: Final = {"http": 50, "grpc": 100}
_OPTIONS: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_LONG_S: Final = 120.0
Ask = Callable[[], Awaitable[None]]


class _Proxy(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, triton: str) -> None:
        channel = grpc.aio.insecure_channel(triton, options=_OPTIONS)
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        names = {output.name for output in request.outputs}
        encoded = request.parameters["image_format"].string_param if "image_encoded" in names else ""
        return await self.ask(ImageForm(raw="image" in names, encoded=encoded))

    async def ask(self, form: ImageForm) -> Any:
        request = infer_request(
            variant=LIGHT, prompt=Prompt("a red circle"), form=form, confidence=True, request_id="", size=(32, 32)
        )
        return await self._triton.ModelInfer(request, timeout=_LONG_S)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The HTTP side."""
        body = b"ok\n"
        if scope["method"] == "POST":
            while (await receive())["more_body"]:
                pass
            image = read_image(await self.ask(PNG_FILE), form=PNG_FILE, size=(0, 0), confidence=True)
            item = {"b64_json": base64.b64encode(image.encoded).decode(), "confidence": image.confidence}
            body = json.dumps({"created": int(time.time()), "data": [item]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _serve(grpc_port: str, http_port: str, triton: str) -> None:
    proxy = _Proxy(triton)
    server = grpc.aio.server(options=_OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(proxy, server)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await server.start()
    config = uvicorn.Config(
        proxy, port=int(http_port), lifespan="off", log_config=None, access_log=False, http="httptools"
    )
    print("serving", flush=True)
    await uvicorn.Server(config).serve()


@dataclass(frozen=True)
class _Target:
    """A router, or the proxy."""

    grpc: str
    http_url: str
    process: psutil.Process


@contextmanager
def _bare(triton: str) -> Iterator[_Target]:
    ports = str(free_port()), str(free_port())
    with subprocess.Popen(
        [sys.executable, "-m", "bench.router_images", *ports, triton], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            server.stdout.readline()
            yield _Target(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", psutil.Process(server.pid))
        finally:
            server.kill()


@asynccontextmanager
async def _asking(target: _Target, protocol: str, form: ImageForm) -> AsyncIterator[Ask]:
    """Has one image made, and reads all of it."""
    if protocol == "http":
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=target.http_url, limits=limits, timeout=_LONG_S) as client:

            async def post() -> None:
                body = {"model": "shapes", "prompt": "a red circle", "deadline_ms": _LONG_S * 1000}
                (await client.post("/v1/images/generations", json=body)).raise_for_status()

            yield post
        return
    message = message_of(deadline_ms=round(_LONG_S * 1000))
    if form.raw:
        message.outputs.add(name="image")
    else:
        message.outputs.add(name="image_encoded")
        message.parameters["image_format"].string_param = form.encoded
    message.outputs.add(name="confidence")
    async with grpc.aio.insecure_channel(target.grpc, options=_OPTIONS) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer

        async def infer() -> None:
            await call(message)

        yield infer


@dataclass(frozen=True)
class _Cost:
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    most_mb: float
    health_p99_ms: list[float]
    """Of each URL that was asked meanwhile."""


async def _measure(
    target: _Target, protocol: str, form: ImageForm, *, requests: int, concurrency: int, beside: Sequence[str] = ()
) -> _Cost:
    """Cost of requests, so many at a time, with memory and health looked at meanwhile.

    Args:
        beside: URLs of other servers whose health is asked for, too.
    """
    took: list[float] = []
    memory = [target.process.memory_info().rss]

    async def watch() -> None:
        while True:
            memory.append(target.process.memory_info().rss)
            await asyncio.sleep(0.01)

    async with _asking(target, protocol, form) as ask:
        await asyncio.gather(*(ask() for _ in range(min(concurrency, CONCURRENCY))))
        left = iter(range(requests))

        async def client() -> None:
            for _ in left:
                began = time.perf_counter()
                await ask()
                took.append(time.perf_counter() - began)

        watching = asyncio.ensure_future(watch())
        probes = [await _probe(url) for url in (target.http_url, *beside)]
        with cpu_of(target.process) as spent:
            await asyncio.gather(*(client() for _ in range(concurrency)))
        watching.cancel()
        health = [await probe.communicate(b"") for probe in probes]
    p50_ms, p99_ms = _quantiles_ms(took)
    waits = [_quantiles_ms(json.loads(told))[1] for told, _ in health]
    return _Cost(spent[0] / requests * 1000, p50_ms, p99_ms, max(memory) / 1e6, waits)


async def _probe(url: str) -> Process:
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.http_probe", f"{url}/healthz", stdin=PIPE, stdout=PIPE
    )
    assert probe.stdout is not None
    await probe.stdout.readline()
    return probe


def _quantiles_ms(seconds: list[float]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return cuts[49] * 1000, cuts[98] * 1000


def _target_of(router: RouterProcess) -> _Target:
    return _Target(router.grpc, router.http_url, process_of(router))


def _told(ours: _Cost, base: _Cost) -> str:
    return (
        f"{ours.cpu_ms:10.1f} {base.cpu_ms:6.1f} {ours.cpu_ms / base.cpu_ms:10.2f}"
        f" | {ours.p50_ms:6.0f} {ours.p99_ms:6.0f} / {base.p50_ms:6.0f} {base.p99_ms:6.0f}"
        f" | {ours.most_mb:6.0f} {base.most_mb:6.0f} | {ours.health_p99_ms[0]:6.1f}"
        f" / {' / '.join(f'{each:.1f}' for each in base.health_p99_ms)}"
    )


def compare(bench: Bench) -> None:
    """A table of all sizes and forms, then what many at once take."""
    print(
        "                   CPU ms: router, bare  ratio | p50 p99 ms: router / bare | MB: router, bare"
        " | health p99 ms: router / bare / idle router beside the bare"
    )
    for side in SIDES:
        triton = bench.triton({LIGHT: MODEL_S}, name=f"images-{side}", side=side, batch=1, instances=2)
        options = {"direct": 0, "escalation": 0, "batch": 1, "execution_s": {LIGHT: MODEL_S}, "size": f"{side}x{side}"}
        for protocol, name in [("grpc", "raw"), ("grpc", "png"), ("grpc", "jpeg"), ("http", "png")]:
            # Processes of their own for each: memory that was taken once is not given back.
            router = bench.router(make_plan({LIGHT: [triton.endpoint] * 2}, **options))
            with _bare(triton.endpoint) as bare:
                load = {"requests": REQUESTS[side], "concurrency": CONCURRENCY}
                ours = asyncio.run(_measure(_target_of(router), protocol, FORMS[name], **load))
                beside = [router.http_url]
                base = asyncio.run(_measure(bare, protocol, FORMS[name], beside=beside, **load))
            print(f"{side:5} {protocol} {name:5}: {_told(ours, base)}", flush=True)
            if side > 32 and name == ("png" if protocol == "http" else "raw"):
                count = AT_ONCE[protocol]
                many = asyncio.run(
                    _measure(_target_of(router), protocol, FORMS[name], requests=4 * count, concurrency=count)
                )
                print(
                    f"      {count} at once: {many.p50_ms:.0f} ms p50, {many.p99_ms:.0f} ms p99,"
                    f" at most {many.most_mb:.0f} MB, health p99 {many.health_p99_ms[0]:.1f} ms",
                    flush=True,
                )
            router.stop()
        triton.stop()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:4]))
