"""The agent's client of its Triton, over the Unix socket of HTTP: load, unload, what is there, and whether it works."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cascade_models import probe

Parameters = Mapping[str, int | str]
"""Parameters of a request by name."""

LOAD_TIMEOUT_S: Final = 1800.0
"""Weights may have to be downloaded, and engines built; a server that ends is noticed at once."""
UNLOAD_TIMEOUT_S: Final = 300.0
"""How long a model may take for what it has in hand; then its server counts as hanging."""
CALL_TIMEOUT_S: Final = 2.0
COUNTS_TIMEOUT_S: Final = 5.0
"""If a server does not even return its counts within this time, it hangs, however busy the machine is."""

_UNLOAD_POLL_S: Final = 0.05
_NOT_LOADED: Final = re.compile(r"UNAVAILABLE state: (?:Internal: )?(?:TritonModelException: )?([^\n;]+)")
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|outofmemory|memoryerror|bad_alloc|(failed|cannot|unable) to allocate", re.IGNORECASE
)


class TritonError(Exception):
    """A call failed; the message says how."""


class TritonSilent(TritonError):
    """The server did not answer in time, or not at all."""


@dataclass(frozen=True)
class InferenceCounts:
    """Requests since a model was loaded: those that its process took (successes to Triton), and those that failed."""

    succeeded: int
    failed: int


class TritonHttp:
    """One server. Calls raise TritonError, and TritonSilent where nothing comes back in time."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    async def alive(self) -> bool:
        """Whether the server answers; gRPC is there before HTTP."""
        try:
            await self._call("/v2/health/live", None, CALL_TIMEOUT_S)
        except TritonError:
            return False
        return True

    async def load(self, model: str) -> None:
        """Load a model from the repository; one that is there and has changed there is replaced while it serves."""
        await self._call(f"/v2/repository/models/{model}/load", b"{}", LOAD_TIMEOUT_S)

    async def unload(self, model: str) -> None:
        """Take a model out; inferences that have begun are still answered."""
        await self._call(f"/v2/repository/models/{model}/unload", b"{}", CALL_TIMEOUT_S)

    async def gone(self, model: str) -> None:
        """Wait until a model that was unloaded has given back what it took."""
        until = asyncio.get_running_loop().time() + UNLOAD_TIMEOUT_S
        while await self._state(model) in ("READY", "UNLOADING"):
            if asyncio.get_running_loop().time() > until:
                raise TritonSilent(f"{model} is not unloaded after {UNLOAD_TIMEOUT_S:.0f} s")
            await asyncio.sleep(_UNLOAD_POLL_S)

    async def counts(self, model: str) -> InferenceCounts:
        """How many inferences a model has answered and failed since it was loaded."""
        statistics = await self._call(f"/v2/models/{model}/stats", None, COUNTS_TIMEOUT_S)
        try:
            return InferenceCounts(*probe.counts_in(statistics))
        except (ValueError, KeyError) as error:
            raise TritonError(f"statistics that cannot be read: {error}") from None

    async def draw(self, model: str, parameters: Parameters, *, timeout_s: float) -> None:
        """Have a model draw an image by these settings."""
        await self._call(f"/v2/models/{model}/infer", probe.proof(parameters), timeout_s)

    async def _state(self, model: str) -> str:
        """What the server says of a model; empty where it does not have it."""
        entries = json.loads(await self._call("/v2/repository/index", b"{}", COUNTS_TIMEOUT_S))
        return next((str(entry.get("state", "")) for entry in entries if entry.get("name") == model), "")

    async def _call(self, path: str, body: bytes | None, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                status, answer = await self._exchange(path, body)
        except TimeoutError:
            raise TritonSilent(f"no answer within {timeout_s:.0f} s") from None
        except (OSError, ValueError) as error:
            raise TritonSilent(str(error)) from None
        if status != probe.OK:
            said = str(probe.reason_in(answer))
            raise TritonError(why_not_loaded(said) or said)
        return answer

    async def _exchange(self, path: str, body: bytes | None) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(probe.head_of(path, body) + (body or b""))
            answer = b""
            while (whole := probe.length_of(answer)) is None or len(answer) < whole:
                part = await reader.read(65536)
                if not part:
                    raise ValueError("the server closed the connection")
                answer += part
            return probe.parts_of(answer)
        finally:
            writer.close()


def why_not_loaded(text: str) -> str:
    """What a server's answer or log says about models that it could not load, without tracebacks; may be empty."""
    return "; ".join(dict.fromkeys(found.strip() for found in _NOT_LOADED.findall(text)))


def in_words(failure: str) -> str:
    """A failed load as a message that says what to do where that is known."""
    if _OUT_OF_MEMORY.search(failure):
        return f"the accelerator's memory does not hold it beside what is hosted: host fewer weights ({failure})"
    return failure
