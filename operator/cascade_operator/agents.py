"""The client of a worker's agent: it tells the agent what to host, and hears how far it is.

The agent (`cascade-triton agent`) does the rest: it loads and unloads models, and mends what breaks. What it reports is
what its Triton showed, and not what it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cascade_api.worker_requests import weights_of_model

from .snapshot import HostState

if TYPE_CHECKING:
    import aiohttp

ANSWER_TIMEOUT_S: Final = 10.0
WAIT_TIMEOUT_S: Final = 45.0
"""An agent answers whoever waits for a change at least every 30 s."""
FAILED_AFTER: Final = 3
"""After this many failures in a row, a server or its weights count as failed; they are still tried again."""
NOTHING: Final[Mapping[str, Any]] = {"variants": []}
"""What an agent is told that shall host nothing."""
_OK: Final = 200


class AgentFailed(Exception):
    """An agent ended, did not start, does not answer, or refuses what it is told; the message says how."""


@dataclass(frozen=True)
class Hosted:
    """One model on a worker; ``state`` is loading, ready, unloading or failed, ``failures`` counts loads in a row.

    ``since_s`` is when it entered the state, in Unix seconds of the worker's clock.
    """

    state: str
    message: str
    failures: int
    since_s: float = 0.0


@dataclass(frozen=True)
class Report:
    """What an agent says. ``endpoint`` is None while it has no server; ``problem`` then says why."""

    number: int
    endpoint: str | None
    problem: str
    failures: int
    hosts: Mapping[str, Hosted]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Report:
        """The report in an agent's answer; raises AgentFailed if it is none."""
        try:
            hosts = {
                model: Hosted(host["state"], host["message"], host["failures"], host["since"])
                for model, host in answer["hosts"].items()
            }
            return cls(answer["number"], answer["endpoint"], answer["problem"], answer["failures"], hosts)
        except (AttributeError, KeyError, TypeError):
            raise AgentFailed("its agent gives an answer that cannot be read") from None


def host_states(wanted: Collection[str], report: Report | None) -> dict[str, HostState]:
    """The weights that a worker is to host, and then those that are still there, with their states.

    ``wanted`` are the digests that its agent is told; ``report`` is None while nothing is known of what is there.
    """
    hosts = {} if report is None or report.endpoint is None else report.hosts
    reported = {weights_of_model(model): host for model, host in hosts.items()}
    states = {digest: _state(reported.get(digest)) for digest in wanted}
    return states | {digest: HostState.UNLOADING for digest in reported if digest not in states}


def _state(host: Hosted | None) -> HostState:
    if host is not None and host.state == "ready":
        return HostState.READY
    return HostState.FAILED if host is not None and host.failures > FAILED_AFTER else HostState.LOADING


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
            raise AgentFailed(f"it cannot host this: {answer['error']}")
        return answer
