"""The agent of a worker whose pod has no processes: the real port and rules, over a Triton that is not there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Any

import httpx

from cascade_models.agent.hosting import Hosting
from cascade_models.agent.port import Port
from cascade_models.agent.triton_http import InferenceCounts, Parameters

from ..kube_api import Api, ApiError

Object = dict[str, Any]
RETRY_S = 0.1


class _Triton:
    """A server, and the client of it, that does at once whatever it is asked for."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answered = 0

    @property
    def client(self) -> _Triton:
        return self

    def runs(self, model: str) -> bool:
        return True

    def check_running(self) -> None:
        pass

    async def end(self, *, grace_s: float) -> None:
        pass

    async def alive(self) -> bool:
        return True

    async def load(self, model: str) -> None:
        pass

    async def unload(self, model: str) -> None:
        pass

    async def gone(self, model: str) -> None:
        pass

    async def counts(self, model: str) -> InferenceCounts:
        self._answered += 1
        return InferenceCounts(self._answered, 0)

    async def draw(self, model: str, parameters: Parameters, *, timeout_s: float) -> None:
        pass


def agent_port(manifest: Object) -> int | None:
    """Where the agent of a pod listens; None if the pod is not a worker."""
    ports = [port for container in manifest["spec"]["containers"] for port in container.get("ports") or ()]
    return next((port["containerPort"] for port in ports if port.get("name") == "agent"), None)


async def pretend(manifest: Object, *, api: Api, address: str, port: int) -> None:
    """Be the agent of a pod until cancelled, with the key that its volume has."""
    key = await _key(manifest, api)

    async def start_server() -> _Triton:
        return _Triton(f"{address}:8001")

    hosting = Hosting(start_server=start_server, render=lambda wanted, there: None, say=lambda line: None)
    server = await Port(hosting, keep=lambda document: None, key=key).listen(address, port, None)
    async with server:
        await hosting.run()


async def _key(manifest: Object, api: Api) -> str:
    """What is in the Secret that a pod mounts, as soon as it is there: without it no pod starts."""
    names = [volume["secret"]["secretName"] for volume in manifest["spec"]["volumes"] if "secret" in volume]
    path = f"/api/v1/namespaces/{manifest['metadata']['namespace']}/secrets/{names[0]}"
    while True:
        with contextlib.suppress(ApiError, httpx.TransportError):
            found = await asyncio.to_thread(api.find, path)
            if found is not None:
                return base64.b64decode(found["data"]["key"]).decode()
        await asyncio.sleep(RETRY_S)
