"""Agents as child processes, one for each slot."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..agent_reports import AgentFailed, Report
from ..agents import AgentClient
from .logs import log_tail
from .state import SHARED_MEMORY, StateDir
from .supervisor import Child, Program, describe_exit

START_TIMEOUT_S: Final = 60.0
WORKER_NICE: Final = 2
"""Added to the nice value of agents and their servers, so that router, Redis and planner have priority on a busy
machine."""
_POLL_S: Final = 0.02


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
        self._session = aiohttp.ClientSession(connector=connector)
        self._client = AgentClient(self._session, "http://agent")

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
        return await self._client.host(document)

    async def next_report(self, last: Report) -> Report:
        """What it hosts, when that is something else than ``last`` or after a while; raises AgentFailed."""
        return await self._client.next_report(last)

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

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + START_TIMEOUT_S
        log = self._state.log_file(self._slot_id)
        while loop.time() < until:
            try:
                await self._client.check()
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
