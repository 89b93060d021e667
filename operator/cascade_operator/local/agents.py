"""Agents as child processes, one for each slot, and the client that tells them what to host and hears how far it is."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .logs import log_tail
from .state import SHARED_MEMORY, StateDir
from .supervisor import Child, Program, describe_exit

ANSWER_TIMEOUT_S: Final = 10.0
WAIT_TIMEOUT_S: Final = 45.0
"""An agent answers whoever waits for a change at least every 30 s."""
START_TIMEOUT_S: Final = 60.0
WORKER_NICE: Final = 2
"""Added to the nice value of agents and their servers, so that router, Redis and planner have priority on a busy
machine."""
_POLL_S: Final = 0.02


class AgentFailed(Exception):
    """An agent ended, did not start, does not answer, or refuses what it is told; the message says how."""


@dataclass(frozen=True)
class Hosted:
    """One model on a worker; ``state`` is loading, ready, unloading or failed, ``failures`` counts loads in a row."""

    state: str
    message: str
    failures: int


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
        hosts = {
            model: Hosted(state=host["state"], message=host["message"], failures=host["failures"])
            for model, host in answer["hosts"].items()
        }
        return cls(answer["number"], answer["endpoint"], answer["problem"], answer["failures"], hosts)


class Agent:
    """One running agent."""

    def __init__(self, child: Child, slot_id: str, state: StateDir) -> None:
        # Its import takes long, and other commands do without it.
        import aiohttp

        self.child = child
        self._slot_id = slot_id
        self._state = state
        self._folder = agent_folder(state, slot_id)
        connector = aiohttp.UnixConnector(path=str(self._folder / "agent"))
        self._session = aiohttp.ClientSession("http://agent", connector=connector)
        self._failures = (aiohttp.ClientError, TimeoutError, OSError)

    @classmethod
    async def start(cls, slot_id: str, *, launcher: str, state: StateDir) -> Agent:
        """Start an agent and wait until it answers; raises AgentFailed or OSError."""
        agent = cls(await Child.start(agent_program(launcher, state=state, slot_id=slot_id), state), slot_id, state)
        try:
            await agent._wait_ready()
        except BaseException:
            await asyncio.shield(agent.end())
            raise
        return agent

    async def host(self, document: Mapping[str, Any]) -> Report:
        """Tell it what to host; raises AgentFailed, with the field at fault if it cannot be hosted."""
        return Report.of(await self._ask("PUT", "/hosts", ANSWER_TIMEOUT_S, json=document))

    async def next_report(self, last: Report) -> Report:
        """What it hosts, when that is something else than ``last`` or after a while; raises AgentFailed."""
        return Report.of(await self._ask("GET", f"/hosts?changed_since={last.number}", WAIT_TIMEOUT_S))

    def check_running(self) -> None:
        """Raise AgentFailed if the process has ended."""
        if not self.child.running:
            raise AgentFailed(f"its agent ended ({describe_exit(self.child.ended.result())})")

    async def end(self) -> None:
        """Kill it with its server, and remove what they leave behind.

        An orderly end would take one to two seconds and is not needed: a server has no state, and it was drained
        before.
        """
        await self._session.close()
        await self.child.stop(grace_s=0)
        for segment in SHARED_MEMORY.glob(f"{self._state.replica_id(self._slot_id)}.*"):
            segment.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _ask(self, method: str, path: str, timeout_s: float, **options: Any) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(timeout_s), self._session.request(method, path, **options) as response:
                answer: Mapping[str, Any] = await response.json()
        except self._failures as error:
            raise AgentFailed(f"its agent does not answer ({error or type(error).__name__})") from None
        if response.status != 200:
            raise AgentFailed(f"it cannot host this: {answer['error']}")
        return answer

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + START_TIMEOUT_S
        log = self._state.log_file(self._slot_id)
        while loop.time() < until:
            try:
                await self._ask("GET", "/healthz", ANSWER_TIMEOUT_S)
            except AgentFailed:
                await asyncio.wait([self.child.ended], timeout=_POLL_S)
                if not self.child.running:
                    how = describe_exit(self.child.ended.result())
                    raise AgentFailed(f"its agent did not start ({how}); {log}:\n{log_tail(log, 4)}") from None
            else:
                return
        raise AgentFailed(f"its agent was not ready within {START_TIMEOUT_S:.0f} s; see {log}")


def agent_folder(state: StateDir, slot_id: str) -> Path:
    """The folder of a slot's agent, with its sockets and model repository; it goes with the run."""
    return state.sockets / slot_id


def agent_program(launcher: str, *, state: StateDir, slot_id: str) -> Program:
    """The program of a slot's agent, pinned to the slot's core."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[int(slot_id.rpartition("-")[2]) % len(cores)]
    folder = agent_folder(state, slot_id)
    command = [
        launcher,
        "agent",
        f"--folder={folder}",
        f"--grpc-address=unix:{folder / 'grpc'}",
        f"--listen=unix:{folder / 'agent'}",
        f"--replica-id={state.replica_id(slot_id)}",
        f"--core={core}",
    ]
    return Program(name=slot_id, command=command, nice=WORKER_NICE)
