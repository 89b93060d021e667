"""The operator's client of an agent, against the agent's own port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from cascade_models.agent.hosting import Hosting
from cascade_models.agent.port import Port
from cascade_operator.agent_reports import NOTHING, AgentFailed
from cascade_operator.agents import AgentClient
from support.agent import host_entries
from support.ports import free_port

KEY = "k" * 40


async def _never() -> None:  # pragma: no cover - no server is started here
    raise AssertionError


@asynccontextmanager
async def client(key: str | None = KEY) -> AsyncIterator[AgentClient]:
    """A client with this key of an agent that asks for `KEY`, and that has no server."""
    hosting = Hosting(start_server=_never, render=lambda wanted, there: None, say=lambda line: None)
    port = free_port()
    server = await Port(hosting, keep=lambda document: None, key=KEY).listen("127.0.0.1", port, None)
    async with aiohttp.ClientSession() as session:
        yield AgentClient(session, f"http://127.0.0.1:{port}", key=key)
    server.close()


async def test_what_is_told_is_taken_and_reported() -> None:
    async with client() as agent:
        await agent.check()
        told = await agent.host({"variants": host_entries("shapes-light")})
        assert (told.endpoint, told.hosts) == (None, {})
        assert await agent.report() == told
        assert (await agent.host(NOTHING)).number > told.number


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_without_the_key_nothing_is_told(key: str | None) -> None:
    async with client(key) as agent:
        await agent.check()
        with pytest.raises(AgentFailed, match="the key is missing or wrong"):
            await agent.host(NOTHING)


async def test_a_list_that_cannot_be_hosted_is_refused_by_its_field() -> None:
    async with client() as agent:
        with pytest.raises(AgentFailed, match=r"it cannot host this: .*engine"):
            await agent.host({"variants": [{**host_entries("shapes-light")[0], "engine": "steam"}]})


async def test_an_agent_that_is_away_does_not_answer() -> None:
    async with aiohttp.ClientSession() as session:
        agent = AgentClient(session, f"http://127.0.0.1:{free_port()}", key=KEY)
        with pytest.raises(AgentFailed, match="does not answer"):
            await agent.report()
