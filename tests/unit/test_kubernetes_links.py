"""Links tell every agent what its pod is to host, and know at once what it reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cascade_models.agent.hosting import Hosting
from cascade_models.agent.port import Port
from cascade_operator.clusters.kubernetes import links as module
from cascade_operator.clusters.kubernetes.links import KEPT_S, Links, Told
from support.agent import host_entries
from support.ports import free_port
from support.waiting import StoppedClock, eventually

KEY = "k" * 40
BOTH = {"variants": host_entries("shapes-light", "shapes-heavy"), "room": False}
LIGHT = {"variants": host_entries("shapes-light"), "room": False}


class Agent:
    """An agent on a port of this machine, which has no server."""

    def __init__(self) -> None:
        self.port = free_port()
        self.kept: list[object] = []
        self._server: asyncio.Server | None = None

        async def never() -> Any:
            raise AssertionError

        self._hosting = Hosting(start_server=never, render=lambda wanted, there: None, say=print)

    def told(self, document: dict[str, Any] | None, *, key: str = KEY) -> Told:
        return Told("p1", f"http://127.0.0.1:{self.port}", key, document)

    async def start(self) -> None:
        port = Port(self._hosting, keep=self.kept.append, key=KEY)
        self._server = await port.listen("127.0.0.1", self.port, None)

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        # Whoever waits for a change is answered, and finds nobody the next time.
        self._hosting.want(self._hosting._wanted)


class World:
    def __init__(self) -> None:
        self.changes = 0
        self.clock = StoppedClock()
        self.refusals: list[tuple[str, str]] = []
        self.links = Links(changed=self._note, refused=lambda *what: self.refusals.append(what), clock=self.clock)
        self.agent = Agent()

    def _note(self) -> None:
        self.changes += 1

    async def heard(self) -> None:
        await eventually(lambda: bool(self.links.reports()), what="a report")


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    world = World()
    yield world
    await world.links.close()


async def test_an_agent_is_told_once_and_again_when_it_is_to_host_something_else(world: World) -> None:
    await world.agent.start()
    for _ in range(3):
        world.links.keep({"uid": world.agent.told(BOTH)})
        await world.heard()
    assert world.agent.kept == [BOTH]
    world.links.keep({"uid": world.agent.told(LIGHT)})
    await eventually(lambda: world.agent.kept == [BOTH, LIGHT], what="the other list")


async def test_the_first_answer_is_waited_for_and_so_is_the_first_failure(world: World) -> None:
    await world.agent.start()
    world.links.keep({"uid": world.agent.told(LIGHT), "away": Agent().told(LIGHT)})
    await world.links.settle()
    assert world.links.reports().keys() == {"uid"}


async def test_an_agent_that_comes_later_is_told_as_soon_as_it_answers(world: World) -> None:
    world.links.keep({"uid": world.agent.told(LIGHT)})
    await asyncio.sleep(0.05)
    assert world.links.reports() == {}
    await world.agent.start()
    await world.heard()
    assert world.agent.kept == [LIGHT]
    assert world.changes == 1


async def test_an_agent_that_was_told_nothing_goes_on_as_it_is(world: World) -> None:
    await world.agent.start()
    world.links.keep({"uid": world.agent.told(None)})
    await world.heard()
    assert world.agent.kept == []


async def test_a_silent_agent_s_last_report_counts_for_a_while(world: World) -> None:
    await world.agent.start()
    world.links.keep({"uid": world.agent.told(LIGHT)})
    await world.heard()
    world.agent.stop()
    await asyncio.sleep(0.1)
    assert world.links.reports()
    world.clock.now += KEPT_S + 1
    await eventually(lambda: not world.links.reports(), what="the report to be dropped")
    await world.agent.start()
    await world.heard()
    assert world.agent.kept == [LIGHT, LIGHT], "whoever comes back may have forgotten everything"


async def test_an_agent_that_refuses_a_list_says_why_and_is_heard_nevertheless(world: World) -> None:
    await world.agent.start()
    world.links.keep({"uid": world.agent.told({"variants": [{"name": "steam"}]})})
    await world.heard()
    assert world.agent.kept == []
    ((uid, problem),) = world.refusals
    assert uid == "uid"
    assert "variants.0" in problem


async def test_without_the_right_key_nothing_is_heard(world: World) -> None:
    await world.agent.start()
    world.links.keep({"uid": world.agent.told(LIGHT, key="wrong")})
    await asyncio.sleep(0.1)
    assert world.links.reports() == {}
    assert world.agent.kept == []
    assert KEY not in repr(world.agent.told(LIGHT))


async def test_a_pod_that_is_gone_is_not_listened_to(world: World) -> None:
    await world.agent.start()
    world.links.keep({"uid": world.agent.told(LIGHT)})
    await world.heard()
    world.links.keep({})
    assert world.links.reports() == {}
