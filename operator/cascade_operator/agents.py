"""The client of a worker's agent: it tells the agent what to host, and hears how far it is.

The agent (`cascade-triton agent`) does the rest: it loads and unloads models, and mends what breaks. What it reports is
what its Triton showed, and not what it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from .agent_reports import AgentFailed, AgentRefused, Report

if TYPE_CHECKING:
    import aiohttp

ANSWER_TIMEOUT_S: Final = 10.0
WAIT_TIMEOUT_S: Final = 45.0
"""An agent answers whoever waits for a change at least every 30 s."""
_OK: Final = 200


class AgentClient:
    """Calls to one agent; they raise AgentFailed."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, key: str | None = None) -> None:
        """Talk to the agent at ``url`` through a session, which stays the caller's.

        ``key`` is what an agent on the network asks for; on a Unix socket there is none.
        """
        # Its import takes long, and commands that start no worker do without it.
        import aiohttp

        self._session = session
        self._url = url
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._failures = (aiohttp.ClientError, TimeoutError, OSError, ValueError)

    async def check(self) -> None:
        """Raise AgentFailed unless it answers."""
        await self._ask("GET", "/healthz", ANSWER_TIMEOUT_S)

    async def host(self, document: Mapping[str, Any]) -> Report:
        """Tell it what to host; raises AgentFailed, with the field at fault if it cannot be hosted."""
        return Report.of(await self._ask("PUT", "/hosts", ANSWER_TIMEOUT_S, json=document))

    async def report(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Report:
        """What it hosts now."""
        return Report.of(await self._ask("GET", "/hosts", timeout_s))

    async def next_report(self, last: Report) -> Report:
        """What it hosts, when that is something else than ``last`` or after a while."""
        return Report.of(await self._ask("GET", f"/hosts?changed_since={last.number}", WAIT_TIMEOUT_S))

    async def _ask(self, method: str, path: str, timeout_s: float, **options: Any) -> Mapping[str, Any]:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, f"{self._url}{path}", headers=self._headers, **options) as response,
            ):
                answer: Mapping[str, Any] = await response.json()
        except self._failures as error:
            raise AgentFailed(f"its agent does not answer ({error or type(error).__name__})") from None
        if response.status != _OK:
            raise AgentRefused(f"it cannot host this: {answer['error']}")
        return answer
