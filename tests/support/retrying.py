"""A client of two routers that tries a failed request once again, with the same idempotency key, on the other one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .router import EASY, RouterProcess


def message_of(request_id: str = "", *, prompt: str = EASY, **parameters: int | str) -> Any:
    """A ModelInferRequest of one prompt for the cascade `shapes`."""
    message = service_pb2.ModelInferRequest(model_name="shapes", id=request_id)
    message.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(prompt.encode())
    for name, value in parameters.items():
        if isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = value
    return message


class RetryingClient:
    """Counts the answers to each request, and why the others have none."""

    def __init__(self, routers: Sequence[RouterProcess], *, deadline_s: float = 20.0) -> None:
        self._channels = [grpc.aio.insecure_channel(router.grpc) for router in routers]
        self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._deadline_s = deadline_s
        self.answers = Counter[str]()
        self.tried_again = 0
        self.unanswered: dict[str, str] = {}

    async def __aenter__(self) -> RetryingClient:
        return self

    async def __aexit__(self, *problem: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def ask(self, number: int, *, run: str = "r") -> None:
        """One request, first to one router, then to the other."""
        request_id, why = f"{run}-{number}", ""
        for attempt in range(2):
            stub = self._stubs[(number + attempt) % len(self._stubs)]
            try:
                options = {"deadline_ms": round(1000 * self._deadline_s), "idempotency_key": request_id}
                message = message_of(request_id, **options)
                await stub.ModelInfer(message, timeout=self._deadline_s)
            except grpc.aio.AioRpcError as error:
                why = f"{error.code().name}: {error.details()}"
                self.tried_again += attempt == 0
            else:
                self.answers[request_id] += 1
                return
        self.unanswered[request_id] = why

    async def ask_evenly(self, count: int, *, rate: float, run: str = "r") -> None:
        """Send this many requests at an even rate per second, and wait for all of them."""
        loop = asyncio.get_running_loop()
        began, tasks = loop.time(), []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            tasks.append(asyncio.ensure_future(self.ask(number, run=run)))
        await asyncio.gather(*tasks)
